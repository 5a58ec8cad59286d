"""Base of the EM callbacks: the layer, the E-step of each batch, and what is logged."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from gmm_lightning._validation import require_bool
from gmm_lightning.em import (
    CollapseEvent,
    ResponsibilitySchedule,
    degenerate_components,
    e_step,
)
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.priors import require_closed_forms
from gmm_lightning.rows import Batch, complete, require_missing
from gmm_lightning.training.accumulator import PassAccumulator
from gmm_lightning.training.batches import as_global_batch
from gmm_lightning.training.collapse import CollapseHandler
from gmm_lightning.training.fits import starts_anew
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.observer import LayerObserver, not_called_error, warn_dropped
from gmm_lightning.training.target import (
    as_target,
    require_exact_shards,
    require_unsharded,
    state_key_for,
    target_layer,
)


class BaseEMCallback(L.Callback):
    """Base of the EM callbacks, which do the M-step in `on_train_batch_end`: see `EMCallback`.

    The rows of a `GMMModule` are its batches; those of a layer inside another model are the rows
    that the layer is called with. A callback that is used for another fit starts anew.

    Attributes:
        method: what it does, in messages.
    """

    method: ClassVar[str] = "EM"

    def __init__(
        self,
        target: str | None,
        schedule: ResponsibilitySchedule,
        collapse: CollapseHandler,
        *,
        skip_nonfinite: bool,
        missing: str | None = None,
        conjugate_only: bool = False,
    ) -> None:
        self.conjugate_only = require_bool("conjugate_only", conjugate_only)
        if skip_nonfinite and target is None:
            raise InvalidArgumentError(
                "skip_nonfinite is for a target inside a model; the rows of a GMMModule are those "
                "of its data module: drop them there"
            )
        self.missing = require_missing(missing)
        if skip_nonfinite and self.missing is not None:
            raise InvalidArgumentError(
                "skip_nonfinite leaves out the rows with missing entries that missing='em' reads: "
                "choose one of them"
            )
        self.target, self.skip_nonfinite = as_target(target), skip_nonfinite
        self.history: list[float] = []
        self.counts: Tensor | None = None
        self.degenerate: list[tuple[int, ...]] = []
        # Of a whole pass; stepwise EM knows those of a batch only.
        self._pass_counts: Tensor | None = None
        self._mean_weight = 1.0
        self.skipped = 0
        self.converged = False
        self._schedule, self._collapse = schedule, collapse
        self._accumulator = PassAccumulator()
        self._observer: LayerObserver | None = None
        self._logged: dict[str, float] = {}
        self._in_backward = False
        self._unused: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint, one for each target."""
        return state_key_for(self, self.target)

    @property
    def events(self) -> list[CollapseEvent]:
        """Components that had to be repaired."""
        return self._collapse.events

    @property
    def name(self) -> str:
        """Name of the callback in messages."""
        return f"{type(self).__name__}(target={self.target!r})"

    # -- the layer --------------------------------------------------------------------------

    def layer(self, pl_module: L.LightningModule) -> GMMLayer:
        """The layer that this callback trains."""
        return target_layer(pl_module, self.target, type(self).__name__)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer and check that this fit can be exact; forget a fit before it."""
        if stage != "fit":
            return
        require_unsharded(trainer)
        if self._unused is None:
            self._unused = copy.deepcopy(self.state_dict())
        elif starts_anew(trainer):
            self.load_state_dict(copy.deepcopy(self._unused))
            self.counts = self._pass_counts = None
        layer = self.layer(pl_module)
        if not self.conjugate_only:
            require_closed_forms(layer.all_priors)
        if isinstance(pl_module, GMMModule) and self.missing is not None:
            pl_module.missing = self.missing
        if self.target is None and getattr(pl_module, "optimizer", None) is not None:
            raise InvalidArgumentError(
                f"{type(self).__name__} and the optimizer of the {type(pl_module).__name__} would "
                "both train the mixture: leave one of them out"
            )
        if self.target is not None:
            self._observer = LayerObserver(layer, lambda batch: self._on_call(layer, batch))

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Give a target layer back to the optimizer."""
        if self._observer is not None:
            self._observer.release()
            self._observer = None

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Call `teardown` after an error, where Lightning does not."""
        self.teardown()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a loader whose shards repeat rows, and a model with nothing to optimise."""
        require_exact_shards(trainer)
        if self.target is not None and not any(p.requires_grad for p in pl_module.parameters()):
            raise InvalidArgumentError(
                f"EM trains {self.target!r} and the optimizer has nothing else to train: fit the "
                f"mixture alone, by fit_latents(module, loader, {self.target!r})"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the degenerate components, from sums over all processes."""
        layer = self.layer(pl_module)
        self.degenerate = degenerate_components(layer, self._pass_counts, self._mean_weight)

    # -- the E-step of a batch --------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Do the E-step of a batch of a `GMMModule`; for a target it follows with each call."""
        self._accumulator.start_batch(batch_idx)
        self._in_backward = False
        if self.target is None and isinstance(pl_module, GMMModule):
            rows = as_global_batch(batch, trainer.world_size)
            stats = pl_module.e_step(rows, self._schedule.at(len(self.history)))
            self._accumulator.add(stats, rows, log_scale=pl_module.total_log_scale(rows))

    def _on_call(self, layer: GMMLayer, batch: Batch) -> None:
        """Do the E-step of the rows that a target is called with."""
        if self._in_backward or not layer.training:
            return
        dropped = 0
        if self.skip_nonfinite:
            good = torch.isfinite(batch.x).flatten(1).all(-1)
            dropped = int((~good).sum())
            batch = batch.at(good.nonzero().squeeze(-1)) if dropped else batch
        try:
            responsibilities = self._schedule.at(len(self.history))
            stats = e_step(layer, batch, missing=self.missing, responsibilities=responsibilities)
        except InvalidDataError as error:
            raise InvalidDataError(
                f"{self.name}, batch {self._accumulator.next_batch - 1}, of the rows that the "
                f"layer is called with: {error}; skip_nonfinite=True leaves out those with NaN or "
                "infinity"
            ) from error
        self._accumulator.add(stats, batch, dropped)

    def on_before_backward(self, *args: Any, **kwargs: Any) -> None:
        """Ignore the layer's calls: activation checkpointing runs rows through it once more."""
        self._in_backward = True

    def on_after_backward(self, *args: Any, **kwargs: Any) -> None:
        """Receive the layer's calls again: a step may have several backward passes."""
        self._in_backward = False

    # -- the M-step -------------------------------------------------------------------------

    def _candidates(self, pl_module: L.LightningModule, limit: int) -> Batch:
        """At most `limit` rows of the last batch, in the units of the layer."""
        rows = self._accumulator.last_batch
        rows = rows.at(slice(None, None, max(1, -(-rows.num_rows // limit))))
        if isinstance(pl_module, GMMModule):
            rows = pl_module.standardize.batch(rows)
        # A mean is drawn from rows that have all entries.
        return complete(rows)

    def _require_rows(self, num_samples: int) -> None:
        """Refuse a pass in which a target got no rows, or only rows that were left out."""
        if self.target is None or num_samples:
            return
        if self._accumulator.dropped:
            raise InvalidDataError(
                f"{self.name}: all {self._accumulator.dropped} rows of a pass have NaN or "
                "infinity: the network has diverged. Lower the learning rate, clip gradients, and "
                "look for NaN in the data"
            )
        raise not_called_error(self.name)

    # -- logs and checkpoints ---------------------------------------------------------------

    def _log_pass(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        log_likelihood: Tensor,
        objective: Tensor,
        weight: Tensor,
    ) -> None:
        """Store and log the numbers of a pass, means over a batch of mixtures.

        The weight is that of all rows.
        """
        self.history.append(float(objective.mean()))
        # In classification EM it is another quantity: the density of the chosen component.
        kind = "classification_" if self._schedule.hard else ""
        units = self._accumulator.log_scale / float(weight.mean())
        self._logged = {
            f"train/{kind}log_likelihood": float(log_likelihood.mean()) + units,
            "train/objective": self.history[-1] + units,
        }
        if self.skip_nonfinite:
            self._logged["train/skipped_rows"] = float(self._accumulator.dropped)
            if trainer.is_global_zero:
                warn_dropped(self._accumulator.dropped, f"{self.name}, pass {len(self.history)}")
        self.skipped += self._accumulator.dropped
        self._log_again(pl_module)

    def _log_again(self, pl_module: L.LightningModule) -> None:
        """Log the numbers of the last pass, in the user's units if the module has them."""
        if not isinstance(pl_module, GMMModule):
            how: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
            pl_module.log_dict(self._logged, batch_size=1, **how)
            return
        units = float(pl_module.standardize.log_abs_det)
        shown = {name: value + units for name, value in self._logged.items()}
        if "train/log_likelihood" in shown:
            shown["train/nll"] = -shown["train/log_likelihood"]
        pl_module.log_pass(shown, prog_bar=True)

    def outcome(self) -> dict[str, float]:
        """Numbers of a finished fit that are the callback's own, in the user's units."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The history and the repairs."""
        return {
            "history": list(self.history),
            "skipped": self.skipped,
            "converged": self.converged,
            "logged": dict(self._logged),
            "collapse": self._collapse.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.history = list(state_dict["history"])
        self.skipped, self.converged = state_dict["skipped"], state_dict["converged"]
        self._logged = dict(state_dict["logged"])
        self._collapse.load_state_dict(state_dict["collapse"])

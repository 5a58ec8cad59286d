"""EM as a callback: one M-step at the end of every pass over the data."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.em import Annealing, Collapse, e_step
from gmm_lightning.em.annealing import as_annealing, posterior_at
from gmm_lightning.em.ascent import Ascent, numbered
from gmm_lightning.em.posterior import Posterior
from gmm_lightning.em.steps import emptied, without_weight
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics
from gmm_lightning.training.mending import Mender
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.observed import Observed, finite_rows, never_called, tell_dropped
from gmm_lightning.training.target import keyed, require_exact_shards, require_whole, target_layer


class EMCallback(L.Callback):
    """Closed-form M-step on the last batch of a pass: before validation and any checkpoint.

    Every batch contributes its statistics; they are summed over batches, then over processes in
    one reduction, and never stored in the model. A pass that was joined in the middle or cut
    short does no M-step.

    Args:
        target: None for a `GMMModule`; for any other LightningModule the dotted path of the
            `GMMLayer` inside it, for instance `"model.density"`. The layer then learns from the
            rows it is called with in training, each counted once, and its parameters are frozen
            for the optimizer, which may be given all of them. `InitializeCallback` with the same
            target finds a start.
        acceleration: `squarem` or `anderson`: leap along the path of EM. A leap that lowers the
            objective is taken back, which costs a pass.
        annealing: begin with flat responsibilities: an `Annealing`, or its first inverse
            temperature.
        hard: classification EM: every row belongs to its most probable component alone.
        collapse: what to do with a component that loses its volume or its rows: `floor`,
            `reseed` or `raise`, as in `fit_em`.
        seed: of the rows at which components are reseeded.
        skip_nonfinite: for a target: leave out rows with NaN or infinity, and count them, instead
            of ending the fit. They still reach the loss.

    Attributes:
        history: the objective of each pass, before its M-step, in nats per row.
        events: components that had to be repaired.
        counts: rows that each component held in the last pass.
        skipped: rows that were left out, over all processes and passes.

    Raises:
        InvalidArgumentError: at the start of a fit, for a target that is not a `GMMLayer`, a
            precision or strategy that EM cannot use, or a loader that pads its shards.
        InvalidDataError: rows that are not finite (by number in their batch), or a pass that has
            no others.
        CollapseError: under `collapse="raise"`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        acceleration: str | None = None,
        annealing: Annealing | float | None = None,
        hard: bool = False,
        collapse: str = "floor",
        seed: int = 0,
        skip_nonfinite: bool = False,
    ) -> None:
        if skip_nonfinite and target is None:
            raise InvalidArgumentError(
                "skip_nonfinite is for a target inside a model; the rows of a GMMModule are those "
                "of its data module: drop them there"
            )
        self.target, self.annealing = target, as_annealing(annealing)
        self.hard, self.mender = hard, Mender(collapse, seed)
        self.ascent = Ascent(acceleration)
        self.history: list[float] = []
        self.counts: Tensor | None = None
        self.skip_nonfinite, self.skipped = skip_nonfinite, 0
        self._stats: SufficientStatistics | None = None
        self._rows, self._weight = torch.zeros(0), None
        self._logged: dict[str, float] = {}
        self._observed: Observed | None = None
        self._next_batch, self._whole, self._backward = 0, False, False
        # Rows left out: by this process since the last reduction, by all of them in this pass.
        self._dropped = self._left_out = 0

    @property
    def state_key(self) -> str:
        """A place of its own in the checkpoint for each target."""
        return keyed(self, self.target)

    @property
    def events(self) -> list[Collapse]:
        """See the class."""
        return self.mender.events

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer and check that this fit can be exact."""
        if stage != "fit":
            return
        require_whole(trainer)
        layer = self.layer(pl_module)
        if self.target is not None:
            self._observed = Observed(layer, self._collect)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Undo what `setup` did to a target layer."""
        self.release()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """The same where a fit ends early, and `teardown` is not called."""
        self.release()

    def release(self) -> None:
        """Let go of a target layer: its parameters are the optimizer's again."""
        if self._observed is not None:
            self._observed.release()
            self._observed = None

    def layer(self, pl_module: L.LightningModule) -> GMMLayer:
        """The layer that this callback trains.

        Raises:
            InvalidArgumentError: there is none at the target; the message lists those found.
        """
        return target_layer(pl_module, self.target, type(self).__name__)

    def posterior(self) -> Posterior:
        """How responsibilities are taken in the present pass."""
        return posterior_at(len(self.history), self.annealing, hard=self.hard)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a loader whose shards repeat rows, and a model with nothing to optimise."""
        require_exact_shards(trainer)
        if self.target is not None and not any(p.requires_grad for p in pl_module.parameters()):
            raise InvalidArgumentError(
                f"EM trains {self.target!r} and the optimizer has nothing else to train: fit the "
                f"mixture alone, by fit_codes(module, loader, {self.target!r})"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a new sum with the first batch; a pass joined later has none."""
        if batch_idx == 0:
            self._stats, self._dropped, self._left_out = None, 0, 0
        self._whole = batch_idx == 0 or (self._whole and batch_idx == self._next_batch)
        self._next_batch, self._backward = batch_idx + 1, False
        if isinstance(pl_module, GMMModule):
            pl_module.posterior = self.posterior()

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Look away: activation checkpointing runs rows through the layer once more."""
        self._backward = True

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look again: a step may go backwards several times."""
        self._backward = False

    def _collect(self, layer: GMMLayer, rows: Tensor) -> None:
        if self._backward or not layer.training:
            return
        if self.skip_nonfinite:
            rows, dropped = finite_rows(rows)
            self._dropped += dropped
        self._rows = rows
        try:
            self._add(e_step(layer, rows, posterior=self.posterior()))
        except InvalidDataError as error:
            raise InvalidDataError(
                f"{self.name}, batch {self._next_batch - 1}, of the rows that the layer is called "
                f"with: {error}; skip_nonfinite=True leaves out those with NaN or infinity"
            ) from error

    def _add(self, stats: SufficientStatistics) -> None:
        self._stats = stats if self._stats is None else self._stats + stats

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add this batch; with the last one, reduce over processes and do the M-step."""
        if self.target is None:
            self._add(outputs["stats"])
            self._rows, self._weight = outputs["rows"], outputs["weight"]
        if not (trainer.is_last_batch and self._whole):
            return
        layer = self.layer(pl_module)
        stats = self.reduced(trainer, layer)
        self.require_rows(stats)
        self.counts = stats.counts
        objective = self.ascent.judge(layer, stats)
        if objective is None:
            # The leap was taken back: what was logged last still holds.
            self.log_values(pl_module, self._logged)
        else:
            self.advance(trainer, pl_module, stats, objective)
        if objective is None or not self.tells_convergence:
            keep_going(trainer, None if self.target is None else set(self._logged))

    @property
    def name(self) -> str:
        """How messages call this callback."""
        return f"{type(self).__name__}(target={self.target!r})"

    def reduced(self, trainer: L.Trainer, layer: GMMLayer) -> SufficientStatistics:
        """What was added since the last call, over all processes."""
        stats, self._stats = self._stats, None
        if stats is None:
            stats = e_step(layer, layer.means.new_empty(0, *layer.batch_shape, layer.num_features))
        mine = torch.cat([stats.pack(), stats.counts.new_full((1,), self._dropped)])
        sums = trainer.strategy.reduce(mine, reduce_op="sum")
        self._dropped, dropped = 0, int(sums[-1])
        self.skipped += dropped
        self._left_out += dropped
        return stats.unpack(sums[:-1])

    def require_rows(self, stats: SufficientStatistics) -> None:
        """Refuse a pass in which a target was given no rows.

        Raises:
            InvalidDataError: all of them were left out.
            InvalidArgumentError: the layer was not called.
        """
        if self.target is None or int(stats.num_samples):
            return
        if self._left_out:
            raise InvalidDataError(
                f"{self.name}: all {self._left_out} rows of a pass have NaN or infinity: the "
                "network has diverged. Lower the learning rate, clip gradients, and look for NaN "
                "in the data"
            )
        raise never_called(self.name)

    def advance(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        stats: SufficientStatistics,
        objective: Tensor,
    ) -> None:
        """The M-step of an accepted pass, and what is said of both."""
        layer = self.layer(pl_module)
        # What the start left without rows is not reported by any M-step.
        reseeds = self.mender.policy == "reseed"
        first = emptied(without_weight(layer), stats) if reseeds and not self.history else []
        found = first + self.ascent.move(layer, stats, leaps=self.annealed(passes=1))
        self.mended(trainer, pl_module, numbered(found, len(self.history)))
        self.history.append(float(objective.mean()))
        mean = float((stats.log_likelihood / stats.total_weight).mean())
        self._logged = {
            # Of classification EM it is another quantity: the density of the chosen component.
            f"train/{'classification_' if self.hard else ''}log_likelihood": mean,
            "train/objective": self.history[-1],
        }
        self.tell_skipped(trainer)
        self.log_values(pl_module, self._logged)

    def tell_skipped(self, trainer: L.Trainer) -> None:
        """Say and log what was left out of the pass."""
        if self.skip_nonfinite:
            self._logged["train/skipped_rows"] = float(self._left_out)
            if trainer.is_global_zero:
                tell_dropped(self._left_out, f"{self.name}, pass {len(self.history)}")

    def annealed(self, *, passes: int) -> bool:
        """Whether so many passes before this one were of plain EM already, or none was asked."""
        return self.annealing is None or self.annealing.finished(len(self.history) - passes)

    @property
    def tells_convergence(self) -> bool:
        """Whether the gain of the pass says that EM has converged, if it is small.

        Not while it anneals, after a leap, or where a component was moved.
        """
        return self.annealed(passes=2) and self.ascent.plain and not self.mender.moved

    def mended(
        self, trainer: L.Trainer, pl_module: L.LightningModule, found: list[Collapse]
    ) -> list[Collapse]:
        """Treat collapsed components by the policy, and keep and log what was done.

        Raises:
            CollapseError: it is to raise.
        """
        units = pl_module.standardize if isinstance(pl_module, GMMModule) else torch.nn.Identity()
        layer = self.layer(pl_module)
        return self.mender(trainer, layer, found, self._rows, self._weight, units)

    def log_values(self, pl_module: L.LightningModule, values: dict[str, float]) -> None:
        """Log the pass, in the user's units where the module has them."""
        if not isinstance(pl_module, GMMModule):
            pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
            return
        units = float(pl_module.standardize.log_abs_det)
        shown = {name: value + units for name, value in values.items()}
        if "train/log_likelihood" in shown:
            shown["train/nll"] = -shown["train/log_likelihood"]
        pl_module.log_pass(shown, prog_bar=True)

    def state_dict(self) -> dict[str, Any]:
        """The history, the repairs, and where a leap started from."""
        return {
            "history": list(self.history),
            "skipped": self.skipped,
            "logged": dict(self._logged),
            "ascent": self.ascent.state_dict(),
        } | self.mender.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.history = list(state_dict["history"])
        self.skipped = state_dict["skipped"]
        self._logged = dict(state_dict["logged"])
        self.ascent.load_state_dict(state_dict["ascent"])
        self.mender.load_state_dict(state_dict)


def keep_going(trainer: L.Trainer, watched: set[str] | None) -> None:
    """Let early stopping judge the next pass by this one, whatever it gained.

    Args:
        trainer: its early stopping.
        watched: only what looks at these values; None: all, since all of it follows from EM.
    """
    for stopping in trainer.early_stopping_callbacks:
        if watched is None or stopping.monitor in watched:
            worst = -torch.inf if stopping.mode == "max" else torch.inf
            stopping.wait_count = 0
            stopping.best_score = torch.full_like(stopping.best_score, worst)

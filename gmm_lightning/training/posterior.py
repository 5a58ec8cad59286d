"""Draws from the posterior as a callback: all of them before the first pass."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch

from gmm_lightning._files import atomic_write
from gmm_lightning._validation import require_function, require_integer
from gmm_lightning.bayes import PosteriorDraws, Sampler, align, save_netcdf, worst
from gmm_lightning.em import ResponsibilitySchedule
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training.collapse import CollapseHandler
from gmm_lightning.training.em_base import BaseEMCallback
from gmm_lightning.training.initialize import training_rows
from gmm_lightning.training.module import GMMModule

_log = logging.getLogger(__name__)


class PosteriorCallback(BaseEMCallback):
    """Draws from the posterior of a `GMMModule` when training starts, and writes the draws.

    The layer gets the mean of the aligned draws, of which the one pass that follows logs the
    log-likelihood. Chains run side by side in one process.

    Args:
        sampler: `bayes.Gibbs` or `bayes.Nuts`, with its options.
        path: file of the draws, `.npz`, in the user's units, beside which ArviZ, where it is
            installed, writes one of its own, `.nc`; None: they are not written.
        seed: of the chains.
        progress: show a bar.
        missing: `em` where rows have missing entries, if the sampler takes them.

    Attributes:
        draws: in the user's units, aligned; None before.

    Raises:
        InvalidArgumentError: at the start of a fit, a module that is no `GMMModule`, several
            processes, or what the sampler refuses.
    """

    method: ClassVar[str] = "draws from the posterior"

    def __init__(
        self,
        sampler: Sampler,
        *,
        path: str | Path | None = None,
        seed: int = 0,
        progress: bool = True,
        missing: str | None = None,
    ) -> None:
        super().__init__(
            None,
            ResponsibilitySchedule(),
            CollapseHandler("floor", 0),
            skip_nonfinite=False,
            missing=missing,
            conjugate_only=True,
        )
        self.sampler = require_function("sampler", sampler)
        self.path = None if path is None else Path(path)
        self.seed, self.progress = require_integer("seed", seed, least=0), progress
        self.draws: PosteriorDraws | None = None
        self._numbers: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that the draws can be taken here."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if not isinstance(pl_module, GMMModule):
            raise InvalidArgumentError(
                f"PosteriorCallback fits a GMMModule, got {type(pl_module).__name__}: call "
                "bayes.fit_gibbs or bayes.fit_nuts on the latents of a model"
            )
        if trainer.world_size > 1:
            raise InvalidArgumentError(
                "chains run side by side in one process, got "
                f"trainer.devices={trainer.world_size}: use trainer.devices=1"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, unless a checkpoint is gone on from that holds what was found."""
        super().on_train_start(trainer, pl_module)
        if self._numbers:
            return
        assert isinstance(pl_module, GMMModule)
        layer, units = pl_module.layer, pl_module.standardize
        rows = training_rows(pl_module, getattr(trainer, "datamodule", None) or trainer)
        found = self.sampler(
            layer, rows, missing=self.missing, generator=self.seed, progress=self.progress
        )
        aligned, disagreeing = align(found)
        mean = (0, 1)
        layer.set_parameters(
            aligned.weights.mean(mean),
            aligned.means.mean(mean),
            aligned.covariance_matrix.mean(mean),
        )
        self._numbers = worst(aligned, disagreeing)
        self.draws = aligned.transformed(units.loc.double(), units.scale.double())
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as partial:
                self.draws.save(partial)
            with suppress(ImportError):
                columns = getattr(getattr(trainer, "datamodule", None), "columns", None)
                names = None if columns is None else list(map(str, columns))
                save_netcdf(self.draws, self.path.with_suffix(".nc"), names)
        _log.info(
            "%d chains of %d draws: %s",
            *aligned.weights.shape[:2],
            ", ".join(f"{name.replace('_', ' ')} {v:.3g}" for name, v in self._numbers.items()),
        )

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Log the pass, with its last batch."""
        if not (trainer.is_last_batch and self._accumulator.is_whole):
            return
        layer = self.layer(pl_module)
        stats = self._accumulator.reduce(trainer.strategy, layer)
        self._require_rows(int(stats.num_samples))
        self.counts = self._pass_counts = stats.counts
        weight = stats.total_weight
        self._mean_weight = float(weight.mean() / stats.num_samples)
        likelihood = stats.log_likelihood
        objective = likelihood + layer.log_prior().to(likelihood)
        self._log_pass(trainer, pl_module, likelihood / weight, objective / weight, weight)
        self.converged = True
        trainer.should_stop = True

    def outcome(self) -> dict[str, float]:
        """The diagnostics of the chains."""
        return dict(self._numbers)

    def state_dict(self) -> dict[str, Any]:
        """The history and the diagnostics; the draws are in their file."""
        return super().state_dict() | {"numbers": dict(self._numbers)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        super().load_state_dict(state_dict)
        self._numbers = dict(state_dict["numbers"])

"""Stepwise EM as a callback: an M-step after every batch."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.em.ascent import numbered
from gmm_lightning.em.stepwise import StepwiseEM
from gmm_lightning.statistics import SufficientStatistics
from gmm_lightning.training.em import EMCallback
from gmm_lightning.training.module import GMMModule


class StepwiseEMCallback(EMCallback):
    """An M-step after every mini-batch, from running statistics that forget slowly.

    Fits large data in few passes; the batches should come in random order. The running
    statistics are in the checkpoint. What is logged of a pass is the mean over its batches,
    each under the parameters before it.

    Args:
        target: as for `EMCallback`.
        exponent: kappa of the step sizes `(t + offset)^-kappa`, in (0.5, 1].
        offset: t0, at least 1.

    References:
        O. Cappe, E. Moulines (2009), On-line expectation-maximization algorithm for latent data
        models, JRSS B 71.
    """

    def __init__(
        self, target: str | None = None, *, exponent: float = 0.7, offset: float = 2.0
    ) -> None:
        super().__init__(target)
        self.exponent, self.offset = exponent, offset
        self._stream: StepwiseEM | None = None
        self._stored: dict[str, Any] | None = None
        self._sums: Tensor | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer, and begin or take up its running statistics."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._stream = StepwiseEM(
                self.layer(pl_module), exponent=self.exponent, offset=self.offset
            )

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Reduce the batch over processes and move the parameters."""
        if self.target is None:
            self._add(outputs["stats"])
        stats, stream = self.reduced(trainer), self._stream
        assert stream is not None
        if self._stored is not None:
            stream.load_state_dict(self._stored)
            self._stored = None
        if isinstance(pl_module, GMMModule) and len(pl_module.layer.priors):
            stream.num_samples = float(pl_module.num_samples)
        found = stream.update(stats)
        self.counts = stats.counts
        self.report(numbered(found, stream.num_batches), trainer)
        self._sums = self.sums(stats) + (0 if self._sums is None or batch_idx == 0 else self._sums)
        if trainer.is_last_batch:
            self.close_pass(pl_module)

    def sums(self, stats: SufficientStatistics) -> Tensor:
        """Log-likelihood and weight of a batch."""
        return torch.stack([stats.log_likelihood, stats.total_weight])

    def close_pass(self, pl_module: L.LightningModule) -> None:
        """Log the means over the batches of a pass."""
        assert self._sums is not None
        (total, weight), layer = self._sums, self.layer(pl_module)
        prior = layer.log_prior().to(total)
        self.history.append(float(((total + prior) / weight).mean()))
        mean = float((total / weight).mean())
        self.log_values(
            pl_module, {"train/log_likelihood": mean, "train/objective": self.history[-1]}
        )

    def state_dict(self) -> dict[str, Any]:
        """The running statistics beside the history."""
        assert self._stream is not None
        # What was loaded is taken up with the next batch.
        stream = self._stream.state_dict() if self._stored is None else self._stored
        return super().state_dict() | {"stream": stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state_dict)
        self._stored = state_dict["stream"]

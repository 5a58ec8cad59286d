"""Stepwise EM as a callback: an M-step after every batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.em.ascent import numbered
from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.stepwise import StepwiseEM, per_weight
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics
from gmm_lightning.training.em import EMCallback
from gmm_lightning.training.module import GMMModule


class StepwiseEMCallback(EMCallback):
    """An M-step after every mini-batch, from running statistics that forget slowly.

    Fits large data in few passes; the batches should come in random order. The running
    statistics are in the checkpoint. What is logged of a pass is the mean over its batches,
    each under the parameters before it. In a model its mixture follows codes that drift.

    Args:
        target: as for `EMCallback`. Priors are weighed against the rows of the last pass, in the
            first pass against those seen so far.
        exponent: kappa of the step sizes `(t + offset)^-kappa`, in (0.5, 1].
        offset: t0, at least 1.
        collapse: as for `EMCallback`; a component that is moved forgets its statistics.
        seed: of the rows at which components are reseeded.
        skip_nonfinite: as for `EMCallback`.

    Attributes:
        events: components that had to be repaired; of a repair in place only the first.

    References:
        O. Cappe, E. Moulines (2009), On-line expectation-maximization algorithm for latent data
        models, JRSS B 71.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        exponent: float = 0.7,
        offset: float = 2.0,
        collapse: str = "floor",
        seed: int = 0,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(target, collapse=collapse, seed=seed, skip_nonfinite=skip_nonfinite)
        # Small batches ask for the same repair again and again.
        self.mender.once = True
        self.exponent, self.offset = exponent, offset
        self._stream: StepwiseEM | None = None
        self._stored: dict[str, Any] | None = None
        self._sums: Tensor | None = None
        self._rows_of_pass: float | None = None

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
            self._rows, self._weight = outputs["rows"], outputs["weight"]
        layer, stream = self.layer(pl_module), self._stream
        assert stream is not None
        stats = self.reduced(trainer, layer)
        if self._stored is not None:
            stream.load_state_dict(self._stored)
            self._stored = None
        if self.target is not None:
            stream.num_samples = self._rows_of_pass
        elif isinstance(pl_module, GMMModule) and len(layer.priors):
            stream.num_samples = float(pl_module.num_samples)
        found = self.mended(trainer, pl_module, numbered(stream.update(stats), stream.num_batches))
        forget(stream, layer, [event for event in found if event.action == "reseeded"])
        self.counts = stats.counts
        self._sums = self.sums(stats) + (0 if self._sums is None or batch_idx == 0 else self._sums)
        if trainer.is_last_batch:
            self.require_rows(replace(stats, num_samples=self._sums[1].max()))
            self.close_pass(trainer, pl_module)

    def sums(self, stats: SufficientStatistics) -> Tensor:
        """Log-likelihood and weight of a batch."""
        return torch.stack([stats.log_likelihood, stats.total_weight])

    def close_pass(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means over the batches of a pass."""
        assert self._sums is not None
        (total, weight), layer = self._sums, self.layer(pl_module)
        prior = layer.log_prior().to(total)
        self.history.append(float(((total + prior) / weight).mean()))
        mean = float((total / weight).mean())
        if self._whole:
            self._rows_of_pass = float(weight.max())
        self._logged = {"train/log_likelihood": mean, "train/objective": self.history[-1]}
        self.tell_skipped(trainer)
        self.log_values(pl_module, self._logged)

    def state_dict(self) -> dict[str, Any]:
        """The running statistics beside the history."""
        # What was loaded is taken up with the next batch; without a fit there is nothing.
        stream = self._stored
        if stream is None and self._stream is not None:
            stream = self._stream.state_dict()
        return super().state_dict() | {"stream": stream, "rows_of_pass": self._rows_of_pass}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state_dict)
        self._stored, self._rows_of_pass = state_dict["stream"], state_dict["rows_of_pass"]


def forget(stream: StepwiseEM, layer: GMMLayer, moved: list[Collapse]) -> None:
    """Let the running statistics of moved components be those of their new parameters.

    What they held before would draw them back to where they collapsed.
    """
    state = stream.state_dict()
    if not moved or state["running"] is None:
        return
    family, d = layer.covariance, layer.num_features
    running = SufficientStatistics(**state["running"]).about(layer.means.detach().clone(), family)
    counts, first, second = running.counts.clone(), running.first.clone(), running.second.clone()
    own = family.project(family.covariance_matrix(layer.scale, d)).to(second)
    for event in moved:
        where = event.component
        counts[where], first[where] = layer.weights[where].to(counts), 0.0
        if not family.tied:
            second[where] = counts[where] * own[where]
    renewed = per_weight(replace(running, counts=counts, first=first, second=second))
    renewed = replace(renewed, log_likelihood=running.log_likelihood)
    kept = {name: getattr(renewed, name) for name in state["running"]}
    stream.load_state_dict(state | {"running": kept})

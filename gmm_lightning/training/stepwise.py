"""Stepwise EM as a callback: an M-step after every batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.em import (
    CollapsePolicy,
    MixtureModel,
    MixtureParameters,
    ResponsibilitySchedule,
    StepwiseEM,
    maximize,
)
from gmm_lightning.training.collapse import CollapseHandler
from gmm_lightning.training.em_base import BaseEMCallback
from gmm_lightning.training.fits import starts_anew
from gmm_lightning.training.module import GMMModule


class StepwiseEMCallback(BaseEMCallback):
    """Does an M-step after every mini-batch, from running statistics as in `StepwiseEM`.

    Fits large data in few passes; the batches should come in random order. The logged numbers of
    a pass are means over its batches, each under the parameters before it. Inside a model the
    mixture follows latents that drift.

    Args:
        target: as for `EMCallback`. Priors are weighed against the rows of the last pass, in the
            first pass against those seen so far.
        exponent: kappa of the step sizes `(t + offset)^-kappa`, in (0.5, 1].
        offset: t0, at least 1.
        collapse: as for `EMCallback`; a component that is moved forgets its statistics.
        seed: of the rows at which components are reseeded.
        skip_nonfinite: as for `EMCallback`.
        missing: as for `EMCallback`.

    Attributes:
        degenerate: after the fit, components at the floor of their covariances.

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
        collapse: str | CollapsePolicy = "floor",
        seed: int = 0,
        skip_nonfinite: bool = False,
        missing: str | None = None,
    ) -> None:
        super().__init__(
            target,
            ResponsibilitySchedule(),
            CollapseHandler(collapse, seed, report_once=True),
            skip_nonfinite=skip_nonfinite,
            missing=missing,
        )
        self.exponent, self.offset = exponent, offset
        self._stream: StepwiseEM | None = None
        self._stored: dict[str, Any] | None = None
        self._sums: Tensor | None = None
        self._pass_weight: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer, and begin its running statistics."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            if self._stream is not None and not starts_anew(trainer):
                self._stored = self._stream.state_dict()
            self._stream = StepwiseEM(
                self.layer(pl_module), exponent=self.exponent, offset=self.offset
            )

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Reduce the batch over processes and update the parameters."""
        layer, stream = self.layer(pl_module), self._stream
        assert stream is not None
        stats = self._accumulator.reduce(trainer.strategy, layer)
        if self._stored is not None:
            stream.load_state_dict(self._stored)
            self._stored = None
        if self.target is not None:
            stream.num_samples = self._pass_weight
        elif isinstance(pl_module, GMMModule) and layer.all_priors:
            stream.num_samples = float(pl_module.num_samples)
        blended = stream.blend(stats)
        if blended is not None:
            model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
            step = maximize(model, parameters, blended.reshape((parameters.num_mixtures,)))
            step.require_regular()
            candidates = partial(self._candidates, pl_module)
            result = (step.parameters, step.collapsed, stream.num_batches)
            self._collapse.handle(trainer, model, *result, candidates).write_to(layer)
            if self._collapse.has_moved and self._collapse.reseeded is not None:
                stream.reset_components(self._collapse.reseeded)
        self.counts = stats.counts
        sums = torch.stack([stats.log_likelihood, stats.total_weight])
        is_first = self._accumulator.next_batch == 1
        self._sums = sums if self._sums is None or is_first else self._sums + sums
        if trainer.is_last_batch:
            total, weight = self._sums
            self._require_rows(int(weight.max() > 0))
            if self._accumulator.is_whole:
                self._pass_weight = float(weight.max())
            penalised = total + layer.log_prior().to(total)
            self._log_pass(trainer, pl_module, total / weight, penalised / weight, weight)

    def state_dict(self) -> dict[str, Any]:
        """The history, the repairs, and the running statistics."""
        # A loaded state is used with the next batch; without a fit the state is None.
        stream = self._stored or (self._stream and self._stream.state_dict())
        return super().state_dict() | {"stream": stream, "pass_weight": self._pass_weight}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        super().load_state_dict(state_dict)
        self._stored, self._pass_weight = state_dict["stream"], state_dict["pass_weight"]

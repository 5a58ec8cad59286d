"""Variational Bayes as a callback: the posterior is updated at the end of every pass."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.em import (
    Annealing,
    GainEstimate,
    MixtureModel,
    MixtureParameters,
    MixturePosterior,
    ResponsibilitySchedule,
    StoppingRule,
    conjugate_prior,
    counted_statistics,
    stopping_rules,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.training.collapse import CollapseHandler
from gmm_lightning.training.em_base import BaseEMCallback
from gmm_lightning.training.module import GMMModule


class VBCallback(BaseEMCallback):
    """Updates the posterior of a `GMMModule` at the last batch of a pass, as `fit_vb` does.

    During a pass the layer has the parameters of the E-step with expected log densities; after it,
    at validation and in checkpoints, expected weights and means, and the inverses of the expected
    precisions. Statistics are summed over batches, then over processes in one reduction.

    Args:
        tol: of the stopping rule, in nats per row of the bound; None: go on.
        stopping: `aitken`, `gain`, `relative`, or another `StoppingRule`, as in `fit_vb`.
        annealing: begin with flat responsibilities: an `Annealing`, or its first inverse
            temperature.
        missing: `em`: rows may have missing entries, as in `fit_vb`.

    Attributes:
        history: the bound of the log evidence at each pass, in nats per row of the layer's units.
        posterior: of the last pass whose bound is known; None before the first one.
        converged: whether the fit has ended by `tol`.

    Raises:
        InvalidArgumentError: an option out of range; at the start of a fit, a module that is no
            `GMMModule`, or priors without a closed form.
    """

    method: ClassVar[str] = "variational Bayes"

    def __init__(
        self,
        *,
        tol: float | None = None,
        stopping: str | StoppingRule = "aitken",
        annealing: Annealing | float | None = None,
        missing: str | None = None,
    ) -> None:
        schedule = ResponsibilitySchedule.create(hard=False, annealing=annealing)
        super().__init__(
            None,
            schedule,
            CollapseHandler("floor", 0),
            skip_nonfinite=False,
            missing=missing,
            conjugate_only=True,
        )
        self.tol = None if tol is None else require_number("tol", tol, least=0)
        self.stopping = stopping_rules.create(stopping)
        if self.stopping.watches_responsibilities:
            raise InvalidArgumentError(
                f"stopping={self.stopping.name} is a rule of fit_em: use aitken, gain or relative"
            )
        self.posterior: MixturePosterior | None = None
        # Of the next pass: the posterior that the last one led to.
        self._next: MixturePosterior | None = None
        self._gains = GainEstimate(1)
        self._stored: dict[str, Tensor] | None = None
        self._bound = float("nan")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer, and check that its posterior has a closed form."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if not isinstance(pl_module, GMMModule):
            raise InvalidArgumentError(
                f"VBCallback fits a GMMModule, got {type(pl_module).__name__}: fit a layer inside "
                "a model by fit_vb, on its latents"
            )
        layer = pl_module.layer
        if not layer.priors:
            raise InvalidArgumentError(
                "a posterior needs priors, and the layer has none: use priors=conjugate, or niw "
                "with dirichlet"
            )
        if len(self._gains.objective) != layer.batch_shape.numel():
            self._gains = GainEstimate(layer.batch_shape.numel())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin where a checkpoint ends, or with rows that are as the initial parameters say."""
        super().on_train_start(trainer, pl_module)
        layer = self.layer(pl_module)
        if self._stored is not None:
            self._next = self._prior(layer).with_tensors(self._stored)
            self._stored = None
        elif self._next is None:
            assert isinstance(pl_module, GMMModule)
            model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
            rows = counted_statistics(model, parameters, float(pl_module.num_samples))
            self._next = self._prior(layer).updated(rows)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the layer the parameters of the E-step."""
        layer = self.layer(pl_module)
        assert self._next is not None
        self._next.expected_parameters(layer.means.dtype).parameters.write_to(layer)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Reduce over processes and update the posterior, with the last batch of a whole pass."""
        if not (trainer.is_last_batch and self._accumulator.is_whole):
            return
        layer, posterior, dtype = self.layer(pl_module), self._next, self._dtype(pl_module)
        assert posterior is not None
        stats = self._accumulator.reduce(trainer.strategy, layer)
        self._require_rows(int(stats.num_samples))
        self.counts = self._pass_counts = stats.counts
        self._mean_weight = float(stats.total_weight.mean() / stats.num_samples)
        stats = stats.reshape((layer.batch_shape.numel(),))
        prior, weight = self._prior(layer), stats.total_weight
        log_total = posterior.expected_parameters(dtype).log_total
        bound = posterior.bound(prior, stats, log_total) / weight
        stationary = self._schedule.is_stationary(len(self.history))
        self._gains.update(bound, torch.full(bound.shape, stationary))
        if self.tol is not None and stationary:
            self.converged = bool(self.stopping.settled(self._gains, self.tol).all())
            trainer.should_stop = trainer.should_stop or self.converged
        self._log_pass(trainer, pl_module, stats.log_likelihood / weight, bound, weight)
        self.posterior = posterior
        posterior.mean_parameters(dtype).write_to(layer)
        self._next = posterior if self.converged else prior.updated(stats)

    def _log_pass(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        log_likelihood: Tensor,
        objective: Tensor,
        weight: Tensor,
    ) -> None:
        """Log the bound under its own name, too."""
        super()._log_pass(trainer, pl_module, log_likelihood, objective, weight)
        self._logged["train/bound"] = self._logged["train/objective"]
        self._log_again(pl_module)
        assert isinstance(pl_module, GMMModule)
        self._bound = self._logged["train/bound"] + float(pl_module.standardize.log_abs_det)

    def outcome(self) -> dict[str, float]:
        """The bound of the log evidence, in nats per row."""
        return {"bound": self._bound}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the layer with the expected parameters of the last posterior."""
        if self.posterior is not None:
            self.posterior.mean_parameters(self._dtype(pl_module)).write_to(self.layer(pl_module))
        super().on_train_end(trainer, pl_module)

    def _dtype(self, pl_module: L.LightningModule) -> torch.dtype:
        return self.layer(pl_module).means.dtype

    @staticmethod
    def _prior(layer: GMMLayer) -> MixturePosterior:
        return conjugate_prior(MixtureModel.from_layer(layer), layer.num_components)

    def state_dict(self) -> dict[str, Any]:
        """The history, the gains, and the posterior of the next pass."""
        state = super().state_dict() | {"gains": self._gains.state_dict()}
        following = self._stored if self._next is None else self._next.tensors()
        return state | {"posterior": following}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        super().load_state_dict(state_dict)
        self._gains.load_state_dict(state_dict["gains"])
        self._stored, self._next, self.posterior = state_dict["posterior"], None, None

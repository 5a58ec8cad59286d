"""Fits by mini-batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.em import EMResult, StepwiseEM, e_step, resolve_priors
from gmm_lightning.estimators.tgmm._fitting import (
    Rows,
    Run,
    fit_missing,
    prepared_layers,
    statistics_of,
)
from gmm_lightning.estimators.tgmm._starts import Draw
from gmm_lightning.estimators.tgmm.parameters import Parameters
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics


def stream_of(model: Parameters, layer: GMMLayer, num_samples: float | None = None) -> StepwiseEM:
    """Stepwise EM with the step size of a mixture."""
    step_size = None if model.step_size == "auto" else model.step_size
    assert not isinstance(step_size, str)
    return StepwiseEM(
        layer, step_size=step_size, missing=fit_missing(model), num_samples=num_samples
    )


def stream_after(
    model: Parameters, layer: GMMLayer, statistics: SufficientStatistics
) -> StepwiseEM:
    """Stepwise EM that goes on from the rows of a fit."""
    stream = stream_of(model, layer)
    stream.blend(statistics)
    return stream


def stream_from_parameters(model: Parameters, layer: GMMLayer, x: Tensor) -> StepwiseEM:
    """Stepwise EM that goes on from parameters, as if they were of a batch like these rows."""
    stream = stream_after(model, layer, e_step(layer, x, missing=fit_missing(model)))
    stream.reset_components(torch.ones(layer.num_components, dtype=torch.bool, device=x.device))
    return stream


def continue_with(stream: StepwiseEM, x: Tensor) -> None:
    """Go on by a mini-batch; rows of a fit count as the batches of this size that they make."""
    if stream.num_batches == 1:
        seen = float(stream.state_dict()["seen"])
        stream.num_batches = max(1, round(seen / max(len(x), 1)))
    stream.partial_fit(x)


def fit_online(
    model: Parameters, rows: Rows, *, max_iter: int, tol: float, warm: bool
) -> tuple[Run, StepwiseEM]:
    """The best of `n_init` fits by mini-batches, and its stream, which can go on.

    A fit stops when the objective of all rows changes by less than `tol` of itself in an epoch.
    """
    size = require_integer("batch_size, which step_size needs,", model.batch_size, least=1)
    fits = list[tuple[Run, StepwiseEM]]()
    weight = rows.batch.weight
    total = rows.batch.num_rows if weight is None else float(weight.sum())
    for one in prepared_layers(model, rows, warm=warm):
        # The unit of the floor, and the box of noise.
        resolve_priors(one.layer, rows.batch, missing=fit_missing(model))
        stream = stream_of(model, one.layer, total)
        epochs = _Epochs(model, stream, rows)
        for _ in range(max_iter):
            epochs.run(size, one.generator)
            if epochs.has_converged(tol):
                break
        fits.append((Run(one.layer, epochs.result(tol), one.start, one.seed), stream))
    return max(fits, key=lambda fit: fit[0].rank)


class _Epochs:
    """Passes over the rows in random mini-batches, and the objective after each of them."""

    def __init__(self, model: Parameters, stream: StepwiseEM, rows: Rows) -> None:
        self.model, self.stream, self.rows = model, stream, rows
        self.history = list[float]()
        self.log_likelihood = math.nan
        self._evaluate()

    def run(self, size: int, generator: Draw) -> None:
        """One pass."""
        batch = self.rows.batch
        order = torch.randperm(batch.num_rows, generator=generator, device=batch.x.device)
        for some in order.split(size):
            self.stream.partial_fit(batch.at(some))
        self._evaluate()

    @torch.no_grad()
    def _evaluate(self) -> None:
        layer = self.stream.layer
        stats = statistics_of(self.model, layer, self.rows)
        self.log_likelihood = float(stats.log_likelihood / stats.total_weight)
        prior = float(layer.log_prior() / stats.total_weight)
        self.history.append(self.log_likelihood + prior)

    def has_converged(self, tol: float) -> bool:
        """Whether the last pass changed the objective by less than `tol` of itself."""
        return abs(self.history[-1] - self.history[-2]) < tol * abs(self.history[-2])

    def result(self, tol: float) -> EMResult:
        """The result of the passes, as of a fit."""
        passes = len(self.history) - 1
        return EMResult(
            converged=self.has_converged(tol),
            num_iterations=passes,
            num_e_steps=self.stream.num_batches,
            objective=self.history[-1],
            log_likelihood=self.log_likelihood,
            history=list(self.history),
            events=[],
            degenerate=[],
            constant_features=self.stream.layer.constant_features,
            num_restarts=1,
            restart_objectives=[self.history[-1]],
        )

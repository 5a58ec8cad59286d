"""The result of a fit, from one or many starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Size, Tensor

from gmm_lightning.em.collapse import CollapseEvent, ConstantFeature
from gmm_lightning.em.degenerate import component_indices
from gmm_lightning.em.event_log import CollapseCount
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.state import EMState

Value = float | Tensor


@dataclass(frozen=True)
class Trajectory:
    """The parameters of the best start at each of its T accepted E-steps, the last one included.

    Attributes:
        weights: `(T, *B, K)`.
        means: `(T, *B, K, D)`.
        covariance_matrix: `(T, *B, K, D, D)`.
        noise_weight: `(T, *B)`; None without noise.
    """

    weights: Tensor
    means: Tensor
    covariance_matrix: Tensor
    noise_weight: Tensor | None = None


@dataclass(frozen=True)
class EMResult:
    """The result of a fit. Numbers are floats, or tensors `(*B)` for a batch of mixtures.

    Attributes:
        converged: whether the stopping rule ended the fit (of every mixture).
        num_iterations: M-steps of the best start.
        num_e_steps: E-steps of the best start, with those of extrapolations that were undone and
            the one at the final parameters.
        objective: `mean log p(x) + log_prior / N` at the final parameters, nats per row.
        log_likelihood: `mean log p(x)` at the final parameters, nats per row (of classification
            EM: `mean max_k log p(x, k)`). Under `evaluate_last=False` both may be those before
            the last M-step.
        history: the objective before the first M-step and after each one (while it anneals: the
            free energy).
        events: components that had to be repaired, and features that are constant. In a batch of
            more than a hundred mixtures, repairs are counted (`CollapseCount`).
        degenerate: components at the floor, or of fewer than `D + 1` rows, as indices like those
            of events: they can have any likelihood.
        constant_features: indices of the features with one value in all rows.
        num_restarts: starts that were not given up by the policy, pruned ones included.
        restart_objectives: the last objective of each of them, in the order they were drawn.
        trajectory: the parameters at every E-step, under `record=True`.
    """

    converged: bool
    num_iterations: int
    num_e_steps: int
    objective: Value
    log_likelihood: Value
    history: list[Value]
    events: list[CollapseEvent | CollapseCount | ConstantFeature]
    degenerate: list[tuple[int, ...]]
    constant_features: list[int]
    num_restarts: int
    restart_objectives: list[Value]
    trajectory: Trajectory | None = None


def summarize(
    state: EMState, batch_shape: Size, scores: Tensor, constant: list[int]
) -> tuple[EMResult, MixtureParameters]:
    """The result over all starts, and the best parameters of each mixture of a batch.

    Raises:
        CollapseError: every start of some mixture was given up.
    """
    best, finals = best_runs(state, batch_shape.numel(), scores)
    result = result_of(state, best, batch_shape, list(finals), constant)
    return result, state.final.select(best)


def best_runs(state: EMState, size: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Indices `(size,)` of the best start of each mixture, and final objectives `(R, size)`.

    The objective of a start that was given up is -inf. Where a projection ties the mixtures of a
    restart, the restart with the best sum over them is taken as a whole.

    Raises:
        CollapseError: every start of some mixture was given up.
    """
    number = state.final.num_mixtures
    finals = state.history[-1].clone() if state.history else torch.zeros(number)
    finals[list(state.failures)] = -torch.inf
    finals = finals.view(-1, size)
    coupled = not state.model.runs_independently
    if coupled:
        given_up = ~torch.isfinite(finals).all(-1, keepdim=True)
        finals = torch.where(given_up, -torch.inf, finals)
    lost = (finals == -torch.inf).all(0)
    if bool(lost.any()):
        raise next(state.failures[run] for run in sorted(state.failures))
    # A degenerate start can have any likelihood: scores leave out what it gains by that.
    ranked = torch.where(finals > -torch.inf, scores.view(-1, size), -torch.inf)
    ranked = torch.where((ranked > -torch.inf).any(0), ranked, finals)
    best = ranked.sum(-1).argmax() if coupled else ranked.argmax(0)
    return best * size + torch.arange(size), finals


def result_of(
    state: EMState,
    runs: Tensor,
    batch_shape: Size,
    restart_objectives: list[Tensor],
    constant: list[int],
) -> EMResult:
    """The result of one run for each mixture of a batch.

    Args:
        state: of a finished fit.
        runs: indices of the runs, one for each mixture.
        batch_shape: B.
        restart_objectives: final objectives of each start, -inf where it was given up.
        constant: indices of constant features.
    """

    def value(each: Tensor) -> Value:
        return each.reshape(batch_shape) if batch_shape else each.item()

    num_steps = int(state.num_steps[runs].max())
    kept = [each for each in restart_objectives if bool((each > -torch.inf).any())]
    return EMResult(
        converged=bool(state.converged[runs].all()),
        num_iterations=num_steps,
        num_e_steps=int(state.num_e_steps[runs].max()),
        objective=value(state.history[-1][runs]),
        log_likelihood=value(state.log_likelihood[runs]),
        history=[value(objective[runs]) for objective in state.history[: num_steps + 1]],
        degenerate=component_indices(state.degenerate[runs], batch_shape),
        constant_features=constant,
        events=[*state.events.events(runs, batch_shape), *map(ConstantFeature, constant)],
        num_restarts=len(kept),
        restart_objectives=[value(each) for each in kept],
        trajectory=_trajectory(state, runs, batch_shape, num_steps) if state.path else None,
    )


def _trajectory(state: EMState, runs: Tensor, batch_shape: Size, num_steps: int) -> Trajectory:
    """The parameters of one run for each mixture of a batch, at each E-step of the longest."""
    path = [parameters.select(runs) for parameters in state.path[: num_steps + 1]]
    mixtures = map(state.model.distribution, path)
    columns = [(m.weights, m.means, m.component_covariances) for m in mixtures]
    if state.model.noise is not None:
        noise = (p.noise_logit.squeeze(-1).sigmoid() for p in path)
        columns = [(*column, weight) for column, weight in zip(columns, noise, strict=True)]
    parts = zip(*columns, strict=True)
    return Trajectory(*(_in_batch(torch.stack(part), batch_shape) for part in parts))


def _in_batch(values: Tensor, batch_shape: Size) -> Tensor:
    """Values `(T, M, ...)` with the axes of a batch instead of one, `(T, *B, ...)`."""
    return values.reshape(len(values), *batch_shape, *values.shape[2:])

"""The EM loop: many mixtures side by side, each until it has converged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.maximization import MStepResult, maximize
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.responsibilities import Responsibilities
from gmm_lightning.em.responsibility_change import ResponsibilityChange
from gmm_lightning.em.restarts import coinciding_starts, losing_starts
from gmm_lightning.em.state import EMOptions, EMState
from gmm_lightning.em.updater import MonotoneUpdater
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.statistics import SufficientStatistics

# The best of several starts is followed to this share of the tolerance: it is the one that is
# kept, and where it stands on a plateau others may pass it.
_LEADERS_TOL = 0.01

MStep = Callable[[MixtureModel, MixtureParameters, SufficientStatistics], MStepResult]


@torch.no_grad()
def run_em(
    e_step: EStep,
    model: MixtureModel,
    start: MStepResult,
    options: EMOptions,
    updater: MonotoneUpdater,
    progress: Callable[[EMState], None] | None = None,
    m_step: MStep = maximize,
) -> EMState:
    """The final state of EM from every start at once, through the same matrix products.

    A mixture stops when it has converged, when better restarts replace it, or when the collapse
    policy gives it up. The others go on without it.

    Args:
        e_step: E-steps over the rows.
        model: of M mixtures.
        start: their parameters, and what the initial M-step had to repair.
        options: when to stop, and how responsibilities and collapses are treated.
        updater: takes extrapolated steps, and takes them back.
        progress: called after every accepted E-step, without the mixtures that left after it.
        m_step: from statistics to parameters.
    """
    state = EMState(model, start.parameters)
    changes = ResponsibilityChange(e_step.source)
    updater.resize(start.parameters.num_mixtures)
    _leave(state, updater, state.advance(start, options), torch.any)
    while len(state.active):
        responsibilities = options.schedule.at(state.iteration, options.max_iter)
        stats, objective = _evaluate(e_step, state, responsibilities, updater)
        comparable = ~state.moved & options.schedule.is_stationary(state.iteration)
        updater.accept(objective, options.tol, comparable)
        state.record(objective, stats)
        if options.record:
            state.record_parameters()
        stopping = _stopping(state, objective, options, updater, changes)
        stay = _leave(state, updater, stopping, torch.all)
        if progress is not None:
            progress(state)
        if not len(state.active):
            break
        converged, is_last = _ending(state, options, updater)
        step = m_step(state.model, state.parameters, stats if stay is None else stats.select(stay))
        if not is_last and options.schedule.is_stationary(state.iteration):
            disturbed = None if step.collapsed is None else step.collapsed.mixtures
            before, after = state.parameters, step.parameters
            further = updater.extrapolate(state.model, before, after, disturbed)
            step = step._replace(parameters=further)
        state.iteration += 1
        leaving = state.advance(step, options)
        if is_last:
            state.finish(converged)
            leaving = torch.ones_like(leaving)
        _leave(state, updater, leaving, torch.any)
    return state


def _evaluate(
    e_step: EStep, state: EMState, responsibilities: Responsibilities, updater: MonotoneUpdater
) -> tuple[SufficientStatistics, Tensor]:
    """Statistics and objective; extrapolations that lowered it are undone first."""
    stats = e_step(state.model, state.parameters, responsibilities)
    state.count_e_step()
    objective = state.model.objective(state.parameters, stats)
    rejected = updater.rejected(objective)
    if bool(rejected.any()):
        state.parameters = updater.restore(state.parameters, rejected)
        again = rejected.nonzero().squeeze(-1)
        some = e_step(state.model.select(again), state.parameters.select(again), responsibilities)
        stats = stats.replace(again, some)
        state.count_e_step(again)
        objective = state.model.objective(state.parameters, stats)
    if not bool(torch.isfinite(objective).all()):
        e_step.source.check()
        found = describe(objective.squeeze(0).tolist())
        raise InvalidDataError(
            f"the objective is {found}: the values of the rows are too large or too small for "
            f"{state.parameters.dtype}; standardise them or use float64"
        )
    return stats, objective


def _stopping(
    state: EMState,
    objective: Tensor,
    options: EMOptions,
    updater: MonotoneUpdater,
    changes: ResponsibilityChange,
) -> Tensor:
    """The mixtures to leave: converged, out of steps, or behind other restarts, `(M,)`."""
    # After annealing, the first E-step of plain EM has another objective than the one before.
    stationary = options.schedule.is_stationary(state.iteration)
    number = len(state.converged) // state.model.batch_shape.numel()
    rule, tol = options.stopping, options.tol
    if number > 1 and rule.follows_leader:
        tol = torch.where(state.leads(), _LEADERS_TOL * tol, tol)
    measure = partial(changes.measure, state.model, state.parameters, state.active)
    settled = rule.settled(updater.gains, tol, measure)
    noise = state.noise()
    if noise is not None:
        # A gain that may be rounding says nothing of what remains.
        settled |= updater.gains.gain <= noise
    if not stationary:
        settled = torch.zeros_like(settled)
    state.converged[state.active] = settled
    stopped = settled | (state.iteration >= options.max_iter)
    if options.prune and stationary and number > 1:
        index = state.model.batch_index.cpu()
        degenerate = state.degenerate[state.active].any(-1)
        objective, at = objective.cpu(), state.iteration
        remaining = updater.gains.remaining
        stopped = stopped | losing_starts(objective, remaining, degenerate, index, at, number)
        stopped = stopped | coinciding_starts(
            state.model, state.parameters, objective, remaining, at
        )
    return stopped


def _ending(state: EMState, options: EMOptions, updater: MonotoneUpdater) -> tuple[Tensor, bool]:
    """Which mixtures the next M-step ends by the rule, `(M,)`, and whether it is the last of all.

    Without an E-step after it, that is.
    """
    converged = options.stopping.settles_next(updater.gains, options.tol)
    converged &= options.schedule.is_stationary(state.iteration + 1)
    out_of_steps = state.iteration + 1 >= options.max_iter
    return converged, not options.evaluate_last and (out_of_steps or bool(converged.all()))


def _leave(
    state: EMState,
    updater: MonotoneUpdater,
    leaving: Tensor,
    combine: Callable[[Tensor, int], Tensor],
) -> Tensor | None:
    """Drop some mixtures; positions along M of those that stay, or None if all do.

    Where a projection couples the mixtures of a restart they leave together: when any of them
    (`torch.any`) or all of them (`torch.all`) would.
    """
    if not state.model.runs_independently:
        size = state.model.batch_shape.numel()
        leaving = combine(leaving.view(-1, size), 1).repeat_interleave(size)
    if not bool(leaving.any()):
        return None
    stay = state.drop(leaving)
    updater.select(stay)
    return stay

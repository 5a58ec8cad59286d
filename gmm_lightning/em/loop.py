"""The EM loop: many mixtures side by side, each until its objective stands still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.em.collapse import CollapseEvent, collapse_error, new_events
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.maximization import MStepResult, maximize, singular_error
from gmm_lightning.em.parameters import MixtureModel, MixtureParameters
from gmm_lightning.em.policies import Candidates, CollapsePolicy, Floor
from gmm_lightning.em.responsibilities import Responsibilities, ResponsibilitySchedule
from gmm_lightning.em.restarts import halving_losers
from gmm_lightning.em.updater import MonotoneUpdater
from gmm_lightning.errors import CollapseError, InvalidDataError
from gmm_lightning.statistics import SufficientStatistics

MStep = Callable[[MixtureModel, MixtureParameters, SufficientStatistics], MStepResult]


@dataclass(frozen=True)
class EMOptions:
    """When a mixture stops, and what is done on its way: the options of `fit_em`.

    Attributes:
        max_iter: M-steps at most.
        tol: a mixture has converged when its objective gains less, in nats per row.
        prune: give up the worse half of the restarts every few M-steps.
        schedule: the responsibilities of each E-step.
        policy: treats components that collapse.
        candidates: rows at which the policy may let a component start anew.

    Raises:
        InvalidArgumentError: a value out of range.
    """

    max_iter: int = 100
    tol: float = 1e-3
    prune: bool = True
    schedule: ResponsibilitySchedule = field(default_factory=ResponsibilitySchedule)
    policy: CollapsePolicy = field(default_factory=Floor)
    candidates: Candidates | None = None

    def __post_init__(self) -> None:
        require_integer("max_iter", self.max_iter, least=0)
        require_number("tol", self.tol, least=0)


class EMState:
    """The mixtures that are still being fitted, and the records of all.

    Attributes:
        active: indices of the mixtures that go on, `(M,)`.
        model: of these.
        parameters: of these.
        iteration: M-steps done.
        final: parameters of all mixtures, each as it was left.
        history: objective of all mixtures after each M-step; it stands still where one was left.
        num_steps: M-steps that each mixture took.
        num_e_steps: E-steps of each, with those of extrapolations that were taken back.
        log_likelihood: mean `log p(x)` of each at its last E-step.
        converged: whether the last gain of each was below the tolerance.
        events: repairs of each mixture that has any.
        failures: why a mixture was given up.
    """

    def __init__(self, model: MixtureModel, start: MixtureParameters) -> None:
        number = start.num_mixtures
        self.active = torch.arange(number)
        self.model, self.parameters, self.iteration = model, start, 0
        self.final = start.select(self.active.to(start.device))
        self.history: list[Tensor] = []
        self.num_steps = torch.zeros(number, dtype=torch.long)
        self.num_e_steps = torch.zeros(number, dtype=torch.long)
        self.log_likelihood = torch.full((number,), torch.nan, dtype=torch.float64)
        self.converged = torch.zeros(number, dtype=torch.bool)
        self.events: dict[int, list[CollapseEvent]] = {}
        self.failures: dict[int, CollapseError] = {}
        shape = (number, start.num_components)
        self.num_reseeds = torch.zeros(shape, dtype=torch.long, device=start.device)
        self._latest: dict[int, list[CollapseEvent]] = {}
        self._moved = torch.zeros(number, dtype=torch.bool)

    def record(self, objective: Tensor, stats: SufficientStatistics) -> None:
        """Keep the numbers of an accepted E-step."""
        before = (
            self.history[-1] if self.history else torch.full_like(self.log_likelihood, torch.nan)
        )
        everything = before.clone()
        everything[self.active] = objective.cpu()
        self.history.append(everything)
        self.num_steps[self.active] = self.iteration
        self.log_likelihood[self.active] = (stats.log_likelihood / stats.total_weight).cpu()

    def has_converged(self, tol: float) -> Tensor:
        """Where the last gain was below `tol` and no component was moved by hand, `(M,)`."""
        if len(self.history) < 2:
            return torch.zeros_like(self._moved)
        gain = self.history[-1] - self.history[-2]
        return (gain[self.active] < tol) & ~self._moved

    def advance(self, step: MStepResult, options: EMOptions) -> Tensor:
        """Go on from an M-step, with what collapsed in it treated; the mixtures to give up, `(M,)`.

        A mixture is given up whose covariance is singular, or when the policy says so.
        """
        parameters, failed = step.parameters, step.singular.cpu()
        for m in failed.nonzero().squeeze(-1).tolist():
            self.failures[int(self.active[m])] = singular_error()
        found: dict[int, list[CollapseEvent]] = {}
        self._moved = torch.zeros_like(failed)
        if step.collapsed is not None:
            repair = options.policy.handle(
                self.model, parameters, step.collapsed, self.num_reseeds, options.candidates
            )
            parameters, self._moved = repair.parameters, repair.reseeded.any(-1).cpu()
            self.num_reseeds = self.num_reseeds + repair.reseeded
            collapsed = step.collapsed._replace(reseeded=repair.reseeded)
            for m, event in collapsed.events(self.model, self.iteration):
                found.setdefault(int(self.active[m]), []).append(event)
            for m in repair.failed.nonzero().squeeze(-1).tolist():
                run = int(self.active[m])
                self.failures.setdefault(run, collapse_error(found[run][0]))
            failed = failed | repair.failed.cpu()
        for run, events in found.items():
            fresh = new_events(events, self._latest.get(run, []))
            self.events.setdefault(run, []).extend(fresh)
        self._latest, self.parameters = found, parameters
        return failed

    def drop(self, leaving: Tensor) -> Tensor:
        """Go on without some of the mixtures `(M,)`; positions along M of those that stay."""
        left = self.active[leaving]
        for whole, own in zip(self.final, self.parameters, strict=True):
            whole[left] = own[leaving]
        stay = (~leaving).nonzero().squeeze(-1)
        self.active, self._moved = self.active[stay], self._moved[stay]
        self.parameters, self.model = self.parameters.select(stay), self.model.select(stay)
        self.num_reseeds = self.num_reseeds[stay]
        return stay


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
    """EM from every start at once, through the same matrix products.

    A mixture stops when it has converged, when better restarts leave it behind, or when its
    policy gives it up. The others go on without it.

    Args:
        e_step: E-steps over the rows.
        model: of M mixtures.
        start: their parameters, and what the initial M-step had to repair.
        options: when to stop, and how responsibilities and collapses are treated.
        updater: takes extrapolated steps, and takes them back.
        progress: called after every accepted E-step.
        m_step: from statistics to parameters.
    """
    state = EMState(model, start.parameters)
    _leave(state, updater, state.advance(start, options), torch.any)
    while len(state.active):
        responsibilities = options.schedule.at(state.iteration, options.max_iter)
        stats, objective = _evaluate(e_step, state, responsibilities, updater)
        updater.accept(objective, options.tol)
        state.record(objective, stats)
        stay = _leave(state, updater, _stopping(state, objective, options, updater), torch.all)
        if progress is not None:
            progress(state)
        if not len(state.active):
            break
        step = m_step(state.model, state.parameters, stats if stay is None else stats.select(stay))
        if options.schedule.is_stationary(state.iteration - 1):
            disturbed = None if step.collapsed is None else step.collapsed.mixtures
            before, after = state.parameters, step.parameters
            further = updater.extrapolate(state.model, before, after, disturbed)
            step = step._replace(parameters=further)
        state.iteration += 1
        _leave(state, updater, state.advance(step, options), torch.any)
    return state


def _evaluate(
    e_step: EStep, state: EMState, responsibilities: Responsibilities, updater: MonotoneUpdater
) -> tuple[SufficientStatistics, Tensor]:
    """Statistics and objective; extrapolations that lowered it are taken back first."""
    stats = e_step(state.model, state.parameters, responsibilities)
    state.num_e_steps[state.active] += 1
    objective = state.model.objective(state.parameters, stats)
    rejected = updater.rejected(objective)
    if bool(rejected.any()):
        state.parameters = updater.restore(state.parameters, rejected)
        again = rejected.nonzero().squeeze(-1)
        some = e_step(state.model.select(again), state.parameters.select(again), responsibilities)
        stats = stats.replace(again, some)
        state.num_e_steps[state.active[again]] += 1
        objective = state.model.objective(state.parameters, stats)
    if not bool(torch.isfinite(objective).all()):
        e_step.source.check()
        raise InvalidDataError(
            f"the objective is {objective.squeeze(0).tolist()}: the values of the rows are too "
            f"large or too small for {state.parameters.dtype}; standardise them or use "
            "float64"
        )
    return stats, objective


def _stopping(
    state: EMState, objective: Tensor, options: EMOptions, updater: MonotoneUpdater
) -> Tensor:
    """The mixtures to leave: converged, out of steps, or behind other restarts, `(M,)`."""
    # The first E-step of plain EM is of another quantity than the one before it.
    stationary = options.schedule.is_stationary(state.iteration - 1)
    settled = updater.from_m_step & state.has_converged(options.tol) & stationary
    state.converged[state.active] = settled
    stopped = settled | (state.iteration >= options.max_iter)
    if options.prune and stationary:
        batch_index = state.model.batch_index.cpu()
        stopped = stopped | halving_losers(objective.cpu(), batch_index, state.iteration)
    return stopped


def _leave(
    state: EMState,
    updater: MonotoneUpdater,
    leaving: Tensor,
    combine: Callable[[Tensor, int], Tensor],
) -> Tensor | None:
    """Go on without some mixtures; positions along M of those that stay, None where all do.

    Where a projection ties the mixtures of a restart they leave together: when any of them
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

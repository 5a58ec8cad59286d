"""The options of a fit, and its state: the mixtures still fitted, and the records of all."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.em.collapse import collapse_error
from gmm_lightning.em.event_log import EventLog
from gmm_lightning.em.maximization import MStepResult, singular_error
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.policies import Floor
from gmm_lightning.em.policy import Candidates, CollapsePolicy
from gmm_lightning.em.responsibilities import ResponsibilitySchedule
from gmm_lightning.em.stopping import Aitken, StoppingRule
from gmm_lightning.errors import CollapseError
from gmm_lightning.statistics import SufficientStatistics


@dataclass(frozen=True)
class EMOptions:
    """Options of the EM loop, as in `fit_em`.

    Attributes:
        max_iter: M-steps at most.
        tol: of the stopping rule.
        prune: give up restarts that will not pass another one, or go where another one goes.
        schedule: the responsibilities of each E-step.
        policy: treats components that collapse.
        candidates: rows to which the policy may move a component.
        stopping: says when a mixture has converged.
        record: keep the parameters of every accepted E-step.
        evaluate_last: take an E-step after the last M-step, too, where it is known to be the last.

    Raises:
        InvalidArgumentError: a value out of range.
    """

    max_iter: int = 500
    tol: float = 1e-5
    prune: bool = True
    schedule: ResponsibilitySchedule = field(default_factory=ResponsibilitySchedule)
    policy: CollapsePolicy = field(default_factory=Floor)
    candidates: Candidates | None = None
    stopping: StoppingRule = field(default_factory=Aitken)
    record: bool = False
    evaluate_last: bool = True

    def __post_init__(self) -> None:
        require_integer("max_iter", self.max_iter, least=0)
        require_number("tol", self.tol, least=0)


class EMState:
    """The mixtures that are still being fitted, and the records of all.

    Attributes:
        active: indices of the mixtures that are still fitted, `(M,)`.
        model: of the active mixtures.
        parameters: of the active mixtures.
        iteration: M-steps done.
        final: parameters of all mixtures, each when it stopped.
        history: objective of all mixtures after each M-step, constant once a mixture stopped.
        num_steps: M-steps of each mixture.
        num_e_steps: E-steps of each, with those of extrapolations that were undone.
        log_likelihood: mean `log p(x)` of each at its last E-step.
        converged: whether each has converged by the stopping rule.
        path: parameters of all mixtures at each accepted E-step, if they are recorded.
        events: repairs of each mixture that has any.
        failures: why a mixture was given up.
        degenerate: components at the floor, or with fewer rows than their covariance needs, at
            the last E-step of all mixtures, `(R, K)`.
        moved: whether the last M-step moved a component by hand, `(M,)`.
        num_reseeds: how often each component of the active mixtures was moved, `(M, K)`.
    """

    def __init__(self, model: MixtureModel, start: MixtureParameters) -> None:
        number = start.num_mixtures
        self.active = torch.arange(number)
        self.model, self.parameters, self.iteration = model, start, 0
        self.final = start.select(self.active.to(start.device))
        self.history: list[Tensor] = []
        self.path: list[MixtureParameters] = []
        self.num_steps = torch.zeros(number, dtype=torch.long)
        self.num_e_steps = torch.zeros(number, dtype=torch.long)
        self.log_likelihood = torch.full((number,), torch.nan, dtype=torch.float64)
        self.converged = torch.zeros(number, dtype=torch.bool)
        self.events = EventLog(number, regularized=model.regularizes_covariances)
        self.failures: dict[int, CollapseError] = {}
        shape = (number, start.num_components)
        self.num_reseeds = torch.zeros(shape, dtype=torch.long, device=start.device)
        self.degenerate = torch.zeros(shape, dtype=torch.bool)
        self._floored = torch.zeros(shape, dtype=torch.bool)
        self.moved = torch.zeros(number, dtype=torch.bool)

    def record(self, objective: Tensor, stats: SufficientStatistics) -> None:
        """Record the objective and the log-likelihood of an accepted E-step."""
        before = (
            self.history[-1] if self.history else torch.full_like(self.log_likelihood, torch.nan)
        )
        self.history.append(before.clone())
        self._write(self.history[-1], objective)
        self._write(self.num_steps, torch.full_like(self.active, self.iteration))
        self._write(self.log_likelihood, stats.log_likelihood / stats.total_weight)
        self._write(self.degenerate, self._floored | self.model.has_few_rows(stats.counts).cpu())

    def finish(self, converged: Tensor) -> None:
        """Record the end of the active mixtures with the last M-step."""
        self._write(self.num_steps, torch.full_like(self.active, self.iteration))
        self._write(self.converged, converged)

    def record_parameters(self) -> None:
        """Record the parameters of an accepted E-step."""
        whole = self.final.select(torch.arange(self.final.num_mixtures))
        for kept, own in zip(whole, self.parameters, strict=True):
            kept[self.active.to(own.device)] = own
        self.path.append(whole)

    def count_e_step(self, some: Tensor | None = None) -> None:
        """Count an E-step of the active mixtures, or of those at some positions."""
        if some is None and len(self.active) == len(self.num_e_steps):
            self.num_e_steps += 1
        else:
            self.num_e_steps[self.active if some is None else self.active[some]] += 1

    def _write(self, whole: Tensor, own: Tensor) -> None:
        """Overwrite the entries of the active mixtures in the records of all."""
        if len(own) == len(whole):
            whole.copy_(own)
        else:
            whole[self.active] = own.to(whole)

    def leads(self) -> Tensor:
        """Which of the active mixtures is the best of several starts so far, `(M,)`."""
        size = self.model.batch_shape.numel()
        everything = self.history[-1].nan_to_num(nan=-torch.inf)
        best = everything.view(-1, size).amax(0)
        return everything[self.active] >= best[self.active % size]

    def noise(self) -> Tensor | None:
        """Nats per row that rounding may add to gains, `(M,)`; None: nothing is at the floor."""
        if not bool(self._floored.any()):
            return None
        eps, d = torch.finfo(self.parameters.dtype).eps, self.parameters.means.shape[-1]
        at_floor = self._floored.any(-1).double()
        return at_floor * self.model.family.noise_at_floor(d, eps)

    def advance(self, step: MStepResult, options: EMOptions) -> Tensor:
        """Take over an M-step and treat its collapses; returns the mixtures to give up, `(M,)`.

        A mixture is given up when a covariance is singular or the policy decides so.
        """
        parameters, failed = step.parameters, step.singular.cpu()
        for m in failed.nonzero().squeeze(-1).tolist():
            self.failures[int(self.active[m])] = singular_error()
        collapsed = step.collapsed
        self.moved = torch.zeros_like(failed)
        self._floored = torch.zeros_like(self.degenerate[self.active])
        if collapsed is not None:
            repair = options.policy.handle(
                self.model, parameters, collapsed, self.num_reseeds, options.candidates
            )
            parameters, self.moved = repair.parameters, repair.reseeded.any(-1).cpu()
            self.num_reseeds = self.num_reseeds + repair.reseeded
            collapsed = collapsed._replace(reseeded=repair.reseeded)
            if not self.model.regularizes_covariances:
                # What rounding holds at the floor beside a prior has no likelihood of its own.
                self._floored = (collapsed.floored & ~repair.reseeded).cpu() | self._floored
            given_up = repair.failed.nonzero().squeeze(-1)
            some = collapsed.select(given_up), self.model.select(given_up)
            for m, event in some[0].events(some[1], self.iteration):
                run = int(self.active[given_up[m]])
                self.failures.setdefault(run, collapse_error(event))
            failed = failed | repair.failed.cpu()
        self.events.add(collapsed, self.active, self.iteration)
        self.parameters = parameters
        return failed

    def drop(self, leaving: Tensor) -> Tensor:
        """Drop the mixtures in a mask `(M,)`; returns positions along M of those that stay."""
        left = self.active[leaving]
        for whole, own in zip(self.final, self.parameters, strict=True):
            whole[left] = own[leaving]
        stay = (~leaving).nonzero().squeeze(-1)
        self.active, self.moved = self.active[stay], self.moved[stay]
        self._floored = self._floored[stay]
        self.parameters, self.model = self.parameters.select(stay), self.model.select(stay)
        self.num_reseeds = self.num_reseeds[stay]
        return stay

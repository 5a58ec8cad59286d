"""The loop of variational Bayes: many posteriors side by side, each until it has converged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.responsibilities import ResponsibilitySchedule
from gmm_lightning.em.stopping import StoppingRule
from gmm_lightning.em.variational.posterior import MixturePosterior
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.statistics import SufficientStatistics


@dataclass(frozen=True)
class VBOptions:
    """Options of the loop, as in `fit_vb`.

    Raises:
        InvalidArgumentError: a value out of range, or a rule that needs responsibilities.
    """

    max_iter: int
    tol: float
    schedule: ResponsibilitySchedule
    stopping: StoppingRule

    def __post_init__(self) -> None:
        require_integer("max_iter", self.max_iter, least=1)
        require_number("tol", self.tol, least=0)
        if self.stopping.watches_responsibilities:
            raise InvalidArgumentError(
                f"stopping={self.stopping.name} is a rule of fit_em: use aitken, gain or relative"
            )


@dataclass(frozen=True)
class VBState:
    """The end of a variational fit of M mixtures.

    Attributes:
        posterior: of each, where it stopped.
        history: bounds at each E-step in nats per row, constant once a mixture stopped.
        converged: by the stopping rule, `(M,)`.
        steps: updates of each, `(M,)`.
        weight: total weight of the rows, `(M,)`.
    """

    posterior: MixturePosterior
    history: list[Tensor]
    converged: Tensor
    steps: Tensor
    weight: Tensor


@torch.no_grad()
def run_vb(
    e_step: EStep,
    model: MixtureModel,
    prior: MixturePosterior,
    start: SufficientStatistics,
    options: VBOptions,
    progress: Callable[[int, float, int], None] | None = None,
) -> VBState:
    """The final posteriors of every start at once, through the same matrix products.

    Args:
        e_step: over the rows.
        model: family and evidence of M mixtures.
        prior: of each.
        start: statistics from which the first posteriors follow.
        options: when to stop, and the temperatures.
        progress: called after each E-step with its number, the best bound, and the mixtures left.
    """
    posterior, number = prior.updated(start), len(prior.components.loc)
    active, gains = torch.arange(number), GainEstimate(number)
    dtype = model.local_scale.dtype
    history = [torch.full((number,), torch.nan, dtype=torch.float64)]
    left, done = list[Tensor](), list[MixturePosterior]()
    state = VBState(
        posterior,
        history,
        torch.zeros(number, dtype=torch.bool),
        torch.zeros(number, dtype=torch.long),
        torch.zeros(number, dtype=torch.float64),
    )
    for iteration in range(options.max_iter + 1):
        responsibilities = options.schedule.at(iteration, options.max_iter)
        stationary = options.schedule.is_stationary(iteration)
        expected = posterior.expected_parameters(dtype)
        stats = e_step(model, expected.parameters, responsibilities)
        bound = posterior.bound(prior, stats, expected.log_total) / stats.total_weight
        if not bool(torch.isfinite(bound).all()):
            e_step.source.check()
            raise InvalidDataError(
                f"the bound is {describe(bound.tolist())}: the values of the rows are too large "
                f"or too small for {dtype}; standardise them or use float64"
            )
        history.append(history[-1].clone())
        history[-1][active] = bound.cpu()
        state.weight[active] = stats.total_weight.cpu()
        gains.update(bound, torch.full((len(active),), stationary))
        settled = options.stopping.settled(gains, options.tol) & stationary
        state.converged[active], state.steps[active] = settled, iteration
        leaving = settled | (iteration >= options.max_iter)
        if bool(leaving.any()):
            left.append(active[leaving])
            done.append(posterior.select(leaving.to(dtype=torch.bool)))
            stay = (~leaving).nonzero().squeeze(-1)
            active = active[stay]
            gains.select(stay)
            model, prior, stats = model.select(stay), prior.select(stay), stats.select(stay)
        if progress is not None:
            progress(iteration, float(history[-1].max()), len(active))
        if not len(active):
            break
        posterior = prior.updated(stats)
    order = torch.cat(left).argsort()
    final = MixturePosterior.concatenate(done).select(order)
    return replace(state, posterior=final, history=history[1:])

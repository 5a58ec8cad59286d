"""Moves out of a local optimum of the bound: an idle component takes half of a busy one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator

from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.variational.loop import VBOptions, VBState, run_vb
from gmm_lightning.em.variational.posterior import MixturePosterior
from gmm_lightning.em.variational.prior import counted_statistics
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.statistics import SufficientStatistics


@torch.no_grad()
def with_moves(
    e_step: EStep,
    model: MixtureModel,
    prior: MixturePosterior,
    state: VBState,
    options: VBOptions,
    num_moves: int,
    generator: Generator | None = None,
    progress: Callable[[int, float, int], None] | None = None,
) -> VBState:
    """The state after some moves, each followed to its end and kept where the bound is higher.

    The component of fewest rows moves into another one, drawn by its rows, which is cut in half
    along its longest axis. So the bound, which counts what each component costs, is the judge.

    Args:
        e_step: over the rows.
        model: family and evidence of M mixtures.
        prior: of each.
        state: where they are.
        options: of the fits that follow.
        num_moves: to try.
        generator: source of randomness.
        progress: as for `run_vb`.

    References:
        N. Ueda, Z. Ghahramani (2002), Bayesian model search for mixture models based on optimizing
        variational bounds, Neural Networks 15.
    """
    for _ in range(num_moves if state.posterior.components.loc.shape[-2] > 1 else 0):
        start = _split(model, state, generator)
        other = run_vb(e_step, model, prior, start, options, progress)
        better = other.history[-1] > state.history[-1]
        number = len(better)
        index = torch.arange(number) + number * better
        both = MixturePosterior.concatenate([state.posterior, other.posterior])
        state = replace(
            state,
            posterior=both.select(index.to(model.batch_index.device)),
            history=[*state.history, torch.maximum(state.history[-1], other.history[-1])],
            converged=torch.where(better, other.converged, state.converged),
            steps=state.steps + other.steps,
        )
    return state


def _split(
    model: MixtureModel, state: VBState, generator: Generator | None
) -> SufficientStatistics:
    """Statistics of each mixture in which its smallest component has half of another one."""
    posterior = state.posterior
    parameters = posterior.mean_parameters(torch.float64)
    stats = counted_statistics(model, parameters, 1.0).scaled(state.weight.to(parameters.device))
    counts, family = stats.counts, model.family
    rows = torch.arange(len(counts), device=counts.device)
    idle = counts.argmin(-1)
    busy = torch.multinomial(
        counts.scatter(-1, idle.unsqueeze(-1), 0.0), 1, generator=generator
    ).squeeze(-1)
    d = parameters.means.shape[-1]
    dense = family.covariance_matrix(model.scale(parameters), d)
    own = dense.expand(len(rows), counts.shape[-1], d, d)[rows, busy]
    lengths, axes = torch.linalg.eigh(own)
    # Half a normal distribution has its mean at 0.8 deviations, and 0.36 of the variance.
    step = (2 / torch.pi) ** 0.5 * lengths[..., -1:].sqrt() * axes[..., -1]
    centre = parameters.means[rows, busy]
    shift, half = stats.shift.clone(), 0.5 * counts[rows, busy]
    shift[rows, busy], shift[rows, idle] = centre + step, centre - step
    counts = counts.index_put((rows, busy), half).index_put((rows, idle), half)
    second = stats.second
    if not family.tied:
        within = family.project(own - step.unsqueeze(-1) * step.unsqueeze(-2))
        within = unsqueeze_like(half, within) * within
        second = second.index_put((rows, busy), within).index_put((rows, idle), within)
    return replace(stats, counts=counts, shift=shift, second=second)

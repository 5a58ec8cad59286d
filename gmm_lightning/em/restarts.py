"""Several starts of one mixture: which to give up early, and which one to keep."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.em.data_scale import DataScale
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters

# M-steps before a start may be given up: because it goes where another one goes, and because it is
# behind, with one more for each of so many starts: who asks for many wants the rare ones too.
_FIRST_STEPS, _STARTS_PER_STEP = 8, 5
# What a start may still gain, in units of the estimate.
_DOUBT = 3.0
# Starts coincide whose weights, and means in units of the local scale, differ by less.
_SAME_WEIGHTS, _SAME_MEANS = 0.005, 0.2
# More mixtures are not compared with each other.
_MAX_COMPARED = 512


def losing_starts(
    objective: Tensor,
    remaining: Tensor,
    degenerate: Tensor,
    batch_index: Tensor,
    iteration: int,
    num_starts: int,
) -> Tensor:
    """Starts that will not reach what another start of their mixture has reached, `(M,)`.

    A start is given up when its objective plus three times the gain that is estimated to remain
    is below the best objective among the others; while a mixture has starts without degenerate
    components, only these are the others.

    Args:
        objective: of the starts that are still fitted, `(M,)`.
        remaining: what each is estimated to gain, infinite where that is not known, `(M,)`.
        degenerate: which of them have a degenerate component, `(M,)`.
        batch_index: which mixture of a batch each of them is a start of, `(M,)`.
        iteration: M-steps done.
        num_starts: of each mixture, at first.

    References:
        C. Biernacki, G. Celeux, G. Govaert (2003), Choosing starting values for the EM algorithm
        for getting the highest likelihood in multivariate Gaussian mixture models, CSDA 41.

    Example:
        >>> objective, remaining = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0.1, 0.0, 0.5])
        >>> none, index = torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
        >>> losing_starts(objective, remaining, none, index, 10, num_starts=10).tolist()
        [True, False, False]
    """
    first = _FIRST_STEPS + num_starts // _STARTS_PER_STEP
    if iteration < first or len(batch_index.unique()) == len(batch_index):
        return torch.zeros(len(objective), dtype=torch.bool)
    number = int(batch_index.max()) + 1
    best = torch.full((number,), -torch.inf, dtype=objective.dtype)
    proper = best.scatter_reduce(
        0, batch_index, torch.where(degenerate, -torch.inf, objective), "amax"
    )
    best = best.scatter_reduce(0, batch_index, objective, "amax")
    best = torch.where(proper > -torch.inf, proper, best)
    return objective + _DOUBT * remaining < best[batch_index]


def coinciding_starts(
    model: MixtureModel,
    parameters: MixtureParameters,
    objective: Tensor,
    remaining: Tensor,
    iteration: int,
) -> Tensor:
    """Starts that are on their way to the end of a better start of their mixture, `(M,)`.

    Their objectives differ by no more than remains to be gained, and so do, in order of size,
    their weights, and their means in each feature.

    Args:
        model: of the M mixtures.
        parameters: of the starts that are still fitted.
        objective: of each, `(M,)`.
        remaining: what each is estimated to gain, `(M,)`.
        iteration: M-steps done.
    """
    m = parameters.num_mixtures
    repeated = torch.zeros(m, dtype=torch.bool)
    if iteration < _FIRST_STEPS or m > _MAX_COMPARED:
        return repeated
    index = model.batch_index.cpu()
    allowed = (remaining.unsqueeze(1) + remaining).clamp(min=1e-10)
    near = (objective.unsqueeze(1) - objective).abs() <= allowed
    near &= (index.unsqueeze(1) == index) & torch.isfinite(allowed)
    # Each start with those ahead of it, from the best start to the worst.
    order = objective.argsort(descending=True, stable=True)
    start, ahead = order[near[order][:, order].tril(-1).nonzero()].unbind(-1)
    if not len(start):
        return repeated
    mixture = model.distribution(parameters)
    weights = mixture.weights.sort(-1).values.cpu()
    # Rows far away have no say in what is the same place.
    unit = DataScale.of(mixture.variance, model.local_scale).unit.sqrt().unsqueeze(-2)
    means = (parameters.means / unit).sort(-2).values.cpu()
    same = (weights[start] - weights[ahead]).abs().amax(-1) < _SAME_WEIGHTS
    same &= (means[start] - means[ahead]).abs().flatten(1).amax(-1) < _SAME_MEANS
    for one, other in zip(start[same].tolist(), ahead[same].tolist(), strict=True):
        repeated[one] |= ~repeated[other]
    return repeated

"""Several starts of one mixture: which to give up early, and which one to keep."""

from __future__ import annotations

import torch
from torch import Tensor

# M-steps between two halvings, in which only the better half of the starts goes on.
_HALVING_STEPS = 5


def halving_losers(objective: Tensor, batch_index: Tensor, iteration: int) -> Tensor:
    """Mask of the starts to give up, `(M,)`: successive halving, every 5 M-steps, down to one.

    Args:
        objective: of the starts still followed, `(M,)`.
        batch_index: index of the mixture in the batch that each start belongs to, `(M,)`.
        iteration: M-steps done.

    References:
        C. Biernacki, G. Celeux, G. Govaert (2003), Choosing starting values for the EM algorithm
        for getting the highest likelihood in multivariate Gaussian mixture models, CSDA 41.
        K. Jamieson, A. Talwalkar (2016), Non-stochastic best arm identification and
        hyperparameter optimization, AISTATS.

    Example:
        >>> objective, batch_index = torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([0, 0, 0, 1])
        >>> halving_losers(objective, batch_index, iteration=5).tolist()
        [True, False, False, False]
    """
    lost = torch.zeros(len(objective), dtype=torch.bool)
    counts = batch_index.bincount()
    if iteration == 0 or iteration % _HALVING_STEPS or int(counts.max()) < 2:
        return lost
    order = objective.argsort(descending=True)
    order = order[batch_index[order].argsort(stable=True)]
    # Rank of each start among those of its own mixture.
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order)) - first[batch_index[order]]
    lost[order] = rank >= (counts[batch_index[order]] + 1) // 2
    return lost

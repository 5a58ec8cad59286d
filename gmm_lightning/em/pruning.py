"""Which of several starts are worth following to their end."""

from __future__ import annotations

import torch
from torch import Tensor

# After so many M-steps the better half goes on, and again after as many more.
PASSES = 5


def hopeless(objective: Tensor, iteration: int) -> Tensor:
    """Starts to give up, `(S)`: successive halving, every `PASSES` M-steps, down to one.

    A start of a batch of mixtures goes on while it is in the better half for any of them.

    Args:
        objective: of the starts still followed, `(S, *B)`.
        iteration: M-steps done.

    References:
        C. Biernacki, G. Celeux, G. Govaert (2003), Choosing starting values for the EM algorithm
        for getting the highest likelihood in multivariate Gaussian mixture models, CSDA 41.
        K. Jamieson, A. Talwalkar (2016), Non-stochastic best arm identification and
        hyperparameter optimization, AISTATS.
    """
    count = len(objective)
    if count < 2 or iteration == 0 or iteration % PASSES:
        return torch.zeros(count, dtype=torch.bool)
    better = objective.reshape(count, -1).topk((count + 1) // 2, dim=0).indices
    lost = torch.ones(count, dtype=torch.bool)
    lost[better.reshape(-1).cpu()] = False
    return lost

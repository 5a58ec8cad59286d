"""From log joint densities to responsibilities: softly, or by a hard choice."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# In place: log joint densities along an axis of components become responsibilities; what comes
# back is the log density of each row, without that axis.
Posterior = Callable[[Tensor, int], Tensor]

# Responsibilities below exp(LEAST_LOG), far less than what a sum of them can hold, are zero:
# subnormal numbers would make every product that follows many times slower, and so would an
# infinity the exponential (15 times, measured): it is taken of numbers in range, then cut.
LEAST_LOG = {torch.float32: -60.0, torch.float64: -600.0}


def soft(log_joint: Tensor, dim: int) -> Tensor:
    """`r_k = p(k | x)`: the E-step of EM."""
    least = LEAST_LOG[log_joint.dtype]
    top = log_joint.amax(dim, keepdim=True)
    log_joint.sub_(top).clamp_(min=least).exp_()
    torch.threshold_(log_joint, 1.01 * math.exp(least), 0.0)
    total = log_joint.sum(dim, keepdim=True)
    log_joint.div_(total)
    return total.log_().add_(top).squeeze(dim)


def hard(log_joint: Tensor, dim: int) -> Tensor:
    """One for the most probable component: classification EM, whose log density is `max_k`.

    References:
        G. Celeux, G. Govaert (1992), A classification EM algorithm for clustering and two
        stochastic versions, Computational Statistics and Data Analysis 14.
    """
    best = log_joint.max(dim, keepdim=True)
    log_joint.zero_().scatter_(dim, best.indices, 1.0)
    return best.values.squeeze(dim)


def tempered(inverse_temperature: float) -> Posterior:
    """`r_k ~ p(x, k)^beta`: flat at small beta, the E-step of EM at 1.

    What rises under it is the free energy `log(sum_k p(x, k)^beta) / beta`.

    References:
        N. Ueda, R. Nakano (1998), Deterministic annealing EM algorithm, Neural Networks 11.
    """

    def posterior(log_joint: Tensor, dim: int) -> Tensor:
        return soft(log_joint.mul_(inverse_temperature), dim).div_(inverse_temperature)

    return posterior

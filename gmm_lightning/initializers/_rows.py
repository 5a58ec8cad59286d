"""What initializers and priors need of rows: standard units, and the rows that are not far away."""

from __future__ import annotations

import torch
from torch import Tensor

# The share of the weight that may lie far away from everything else.
FAR_SHARE = 0.005


def standardize(x: Tensor, weight: Tensor) -> Tensor:
    """Rows `(*B, N, D)` centred, with unit variance per feature; a constant one becomes zero.

    Args:
        x: rows, float64.
        weight: of the rows, `(*B, N)`.

    Example:
        >>> standardize(torch.tensor([[1.0, 7.0], [3.0, 7.0]]).double(), torch.ones(2))
        tensor([[-1.,  0.],
                [ 1.,  0.]], dtype=torch.float64)
    """
    share = (weight / weight.sum(-1, keepdim=True)).unsqueeze(-1).to(x)
    x = x - (share * x).sum(-2, keepdim=True)
    # The mean of the differences is the rounding error of the mean.
    x = x - (share * x).sum(-2, keepdim=True)
    scale = (share * x.square()).sum(-2, keepdim=True).sqrt()
    return x / torch.where(scale > 0, scale, 1.0)


def is_near(distance: Tensor, weight: Tensor) -> Tensor:
    """All rows but the furthest, which hold half a percent of the weight at most, `(N,)`.

    Args:
        distance: of each row, `(N,)`.
        weight: of the rows, `(N,)`.

    Example:
        >>> is_near(torch.arange(200), torch.ones(200)).sum()
        tensor(199)
    """
    order = distance.argsort(descending=True)
    far = order[weight[order].cumsum(0) <= FAR_SHARE * weight.sum()]
    return torch.ones_like(distance, dtype=torch.bool).scatter(0, far, 0)

"""A bound on the ratio of the largest to the smallest eigenvalue."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.projections._eigenvalues import change_scale, change_scatter, map_eigenvalues
from gmm_lightning.projections.base import P, Projection
from gmm_lightning.statistics import Moments


class EigenvalueRatio(Projection):
    """Keeps the ratio of any two eigenvalues of the covariances of a mixture at most c.

    It bounds the likelihood without a scale of the data, and keeps components alike. With n_k the
    divisor of a scatter and d its eigenvalues, the M-step is the exact maximum: `d` moves to
    `min(max(d, m), c m)`, with the m that minimises `sum n_k (log e + d / e)` over the changed
    eigenvalues e.

    Args:
        ratio: c, at least 1; at 1 all covariances are the same sphere.

    Raises:
        InvalidArgumentError: a ratio below 1.

    References:
        L. A. Garcia-Escudero, A. Gordaliza, C. Matran, A. Mayo-Iscar (2008), A general trimming
        approach to robust cluster analysis, Annals of Statistics 36.
        H. Fritz, L. A. Garcia-Escudero, A. Mayo-Iscar (2013), A fast algorithm for robust
        constrained clustering, Computational Statistics and Data Analysis 61.

    Example:
        >>> EigenvalueRatio(50.0)
        EigenvalueRatio(ratio=50.0)
    """

    name: ClassVar[str] = "eigenvalue_ratio"
    parts = frozenset({"covariances"})
    order: ClassVar[int] = 2
    bound: ClassVar[tuple[str, ...]] = ("eigenvalue_ratio",)

    def __init__(self, ratio: float = 12.0) -> None:
        super().__init__()
        self.ratio = require_number("ratio", ratio, least=1)

    @property
    def regularizes_covariances(self) -> bool:
        return True

    def _clamp(self, values: Tensor, weight: Tensor, tolerance: float) -> Tensor:
        change = partial(_within_ratio, self.ratio, weight)
        return map_eigenvalues(values, values.dim() - weight.dim(), change, tolerance)

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        return change_scatter(moments, self._clamp)

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        return change_scale(parameters, covariance, self._clamp)

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return {"ratio": self.ratio}


def _within_ratio(ratio: float, dof: Tensor, found: Tensor) -> Tensor:
    """Eigenvalues `(*B, G, E)` whose ratio is at most a given one, weighed by dof `(*B, G)`."""
    values = found.clamp(min=0).flatten(-2)
    weight = dof.unsqueeze(-1).expand_as(found).flatten(-2)
    least = _threshold(values, weight, ratio).unsqueeze(-1)
    within = values.amax(-1, keepdim=True) <= ratio * values.amin(-1, keepdim=True)
    changed = torch.minimum(torch.maximum(values, least), ratio * least)
    return torch.where(within, values, changed).reshape(found.shape)


def _threshold(values: Tensor, weight: Tensor, ratio: float) -> Tensor:
    """The smallest eigenvalue m under which `sum n (log e + d / e)` is minimal, `(*B)`.

    Times m, its derivative is `sum_{d < m} n (1 - d / m) - sum_{d > c m} n (d / (c m) - 1)`, which
    rises with m; between the values at which an eigenvalue meets a bound its zero is known.
    """
    values, order = values.sort(-1)
    weight = weight.gather(-1, order)
    nothing = weight.new_zeros(*weight.shape[:-1], 1)
    counts = torch.cat([nothing, weight.cumsum(-1)], -1)
    sums = torch.cat([nothing, (weight * values).cumsum(-1)], -1)

    def parts(m: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of the eigenvalues that are changed, and what m is their share of."""
        below = torch.searchsorted(values, m.contiguous())
        above = torch.searchsorted(values, (ratio * m).contiguous(), right=True)
        number = counts.gather(-1, below) + counts[..., -1:] - counts.gather(-1, above)
        total = sums.gather(-1, below) + (sums[..., -1:] - sums.gather(-1, above)) / ratio
        return number, total

    tiny = torch.finfo(values.dtype).tiny
    ends = torch.cat([values, values / ratio], -1).clamp(min=tiny).sort(-1).values
    number, total = parts(ends)
    # The last end at which the derivative is not yet positive; the zero is at it or follows.
    last = ((number * ends <= total).sum(-1, keepdim=True) - 1).clamp(min=0)
    left = ends.gather(-1, last)
    right = ends.gather(-1, (last + 1).clamp(max=ends.shape[-1] - 1))
    number, total = parts(left.sqrt() * right.sqrt())
    inside = torch.where(number > 0, total / number.clamp(min=tiny), left)
    return torch.minimum(torch.maximum(inside, left), right).squeeze(-1)

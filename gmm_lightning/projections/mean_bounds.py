"""Means in a box."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.projections._interval import IntervalProjection
from gmm_lightning.projections.base import P, move_means
from gmm_lightning.rows import RowSource, bounding_box
from gmm_lightning.statistics import Moments

# Steps at most, and lengths tried of each; every one raises the objective, as the next M-step does.
_MOST_STEPS, _LENGTHS = 50, 12


class MeanBounds(IntervalProjection):
    """Keeps the means in a box: `l <= mu_k <= u`, entry by entry.

    For diagonal and spherical families the M-step is exact: it moves each mean to the nearest
    point of the box. For dense ones the nearest point is taken under the present covariance, then
    the covariance is estimated about it: a conditional maximisation, so that the objective rises
    and fixed points are the same.

    Args:
        lower: a number, `(D,)`, or anything that broadcasts to `(*B, K, D)`; None: -inf.
        upper: likewise; None: inf.

    Raises:
        InvalidArgumentError: a lower bound above the upper one, or NaN.

    References:
        X.-L. Meng, D. B. Rubin (1993), Maximum likelihood estimation via the ECM algorithm,
        Biometrika 80.

    Example:
        >>> MeanBounds(lower=0.0).config()
        {'lower': 0.0, 'upper': None}
    """

    name: ClassVar[str] = "mean_bounds"
    parts = frozenset({"means"})
    bound: ClassVar[tuple[str, ...]] = ("mean",)
    is_separable: ClassVar[bool] = True
    limits: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def bind(self, shape: MixtureShape) -> None:
        self._register_bounds(shape.means)

    def check(self, source: RowSource) -> None:
        """Refuse bounds beyond all rows, which no component could reach.

        Raises:
            InvalidDataError: the message names a feature.
        """
        low, high = bounding_box(source, self.lower[..., 0, :])
        beyond = (self.lower > high.unsqueeze(-2)) | (self.upper < low.unsqueeze(-2))
        excluded = beyond.all(-2).nonzero()
        if len(excluded):
            at = tuple(excluded[0].tolist())
            name = repr(source.columns[at[-1]]) if source.columns else at[-1]
            raise InvalidDataError(
                f"the bounds of means exclude the data: all values of feature {name} lie between "
                f"{float(low[at]):.4g} and {float(high[at]):.4g}, in the units of the fit, outside "
                "of the bounds of every component"
            )

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        lower, upper = self.bounds_like(moments.means)
        means = moments.means.clamp(lower, upper)
        outside = (means != moments.means).any(-1)
        if not bool(outside.any()):
            return moments
        if moments.scatter.dim() - moments.dof.dim() == 2:
            factor = covariance.scale_tril(present.scale.to(means), means.shape[-1])
            factor = factor.expand(*means.shape, means.shape[-1])[outside]
            start = present.means.to(means).clamp(lower, upper)
            box = (one.expand_as(means)[outside] for one in (lower, upper))
            own = torch.cholesky_inverse(factor)
            means = means.clone()
            means[outside] = _nearest(moments.means[outside], own, start[outside], *box)
        return move_means(moments, means, covariance)

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        means = parameters.means
        return parameters._replace(means=means.clamp(*self.bounds_like(means)))


def _nearest(
    target: Tensor, precision: Tensor, start: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """Points `(n, D)` of boxes, nearest to targets by `(x - t)' P (x - t)`.

    Newton's step in the coordinates that no bound holds, as far along the box as is best.

    References:
        D. P. Bertsekas (1982), Projected Newton methods for optimization problems with simple
        constraints, SIAM Journal on Control and Optimization 20.
    """

    def distance(point: Tensor) -> Tensor:
        gap = point - target
        return (gap * (precision @ gap.unsqueeze(-1)).squeeze(-1)).sum(-1)

    lengths = 0.5 ** torch.arange(_LENGTHS, dtype=start.dtype, device=start.device)
    point, value = start, distance(start)
    for _ in range(_MOST_STEPS):
        slope = (precision @ (point - target).unsqueeze(-1)).squeeze(-1)
        held = ((point <= lower) & (slope > 0)) | ((point >= upper) & (slope < 0))
        free = (~held).to(precision)
        among = free.unsqueeze(-1) * precision * free.unsqueeze(-2) + held.to(free).diag_embed()
        step = torch.linalg.solve(among, (free * slope).unsqueeze(-1)).squeeze(-1)
        tried = point - lengths[:, None, None] * step
        tried = torch.minimum(torch.maximum(tried, lower), upper)
        values = distance(tried)
        best = values.argmin(0, keepdim=True)
        better = values.gather(0, best).squeeze(0) < value
        if not bool(better.any()):
            break
        chosen = tried.gather(0, best.unsqueeze(-1).expand(1, *point.shape)).squeeze(0)
        point = torch.where(better.unsqueeze(-1), chosen, point)
        value = distance(point)
    return point

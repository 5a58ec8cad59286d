"""Means in a box."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.projections._interval import IntervalProjection
from gmm_lightning.projections.base import P, move_means
from gmm_lightning.statistics import Moments

# Rounds through the features at most; each raises the objective, and so does the next M-step.
_MOST_ROUNDS = 50


class MeanBounds(IntervalProjection):
    """Keeps the means in a box: `l <= mu_k <= u`, entry by entry.

    For diagonal and spherical families the M-step is exact: it moves each mean to the nearest
    point of the box. For dense ones the box is met under the present covariance, feature by
    feature until nothing changes, then the covariance is estimated about that mean: a conditional
    maximisation, so that the objective rises and fixed points are the same.

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
    """Points `(n, D)` of boxes, nearest to targets by `(x - t)' P (x - t)`, by coordinates."""
    point, own = start.clone(), precision.diagonal(dim1=-2, dim2=-1)
    eps = torch.finfo(point.dtype).eps
    for _ in range(_MOST_ROUNDS):
        before = point.clone()
        for d in range(point.shape[-1]):
            slope = (precision[:, d] * (point - target)).sum(-1)
            best = point[:, d] - slope / own[:, d]
            point[:, d] = torch.minimum(torch.maximum(best, lower[:, d]), upper[:, d])
        moved = (point - before).abs() * own.sqrt()
        if bool((moved <= 4 * eps * (1 + (point - target).abs() * own.sqrt())).all()):
            break
    return point

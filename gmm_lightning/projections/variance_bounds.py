"""Variances, or eigenvalues, between bounds."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._tracing import value_of
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.projections._eigenvalues import change_scale, change_scatter, map_eigenvalues
from gmm_lightning.projections._interval import IntervalProjection
from gmm_lightning.projections.base import P
from gmm_lightning.statistics import Moments

# Relative difference of bounds' ratios that is rounding.
_SAME_RATIO = 1e-6


class VarianceBounds(IntervalProjection):
    """Keeps variances between bounds: `diag(l) <= Sigma_k <= diag(u)`, in every direction.

    Of diagonal and spherical covariances these are the variances themselves, of dense ones the
    eigenvalues, in units of the bounds where these differ by feature. The M-step moves
    eigenvalues outside to the nearest bound, the exact maximum (also after priors).

    Args:
        lower: in squared units of the rows; a number, one per feature, or anything that broadcasts
            to `(*B, G, D)`; None: 0.
        upper: likewise; None: inf. For dense families `upper / lower` is the same for all features.

    Raises:
        InvalidArgumentError: a negative bound, a lower one above the upper one, or bounds that no
            covariance of the family satisfies.

    References:
        R. J. Hathaway (1985), A constrained formulation of maximum-likelihood estimation for
        normal mixture distributions, Annals of Statistics 13.

    Example:
        >>> layer = GMMLayer(2, 3, bounds={"variance": (1e-3, 0.25)})
        >>> layer.constrain_()
        >>> layer.covariance_matrix[0].diagonal().tolist()
        [0.25, 0.25]
    """

    name: ClassVar[str] = "variance_bounds"
    parts = frozenset({"covariances"})
    order: ClassVar[int] = 2
    bound: ClassVar[tuple[str, ...]] = ("variance", "eigenvalue")
    is_separable: ClassVar[bool] = True
    limits: ClassVar[tuple[float, float]] = (0.0, math.inf)

    @property
    def regularizes_covariances(self) -> bool:
        return bool((self.lower > 0).all())

    def bind(self, shape: MixtureShape) -> None:
        d = shape.num_features
        self._register_bounds((*shape.groups, d))
        if value_of((self.upper == 0).any()) or value_of(torch.isinf(self.lower).any()):
            raise InvalidArgumentError(
                "the lower bounds of variances must be finite and the upper ones > 0, got "
                f"{describe(self.config()['lower'])} and {describe(self.config()['upper'])}"
            )
        num_axes = shape.covariance.project(torch.eye(d)).dim()
        least, most, _ = self._in_units(self.lower, self.upper, num_axes)
        if value_of((least > most * (1 + _SAME_RATIO)).any()):
            raise InvalidArgumentError(
                f"the covariance {shape.covariance.name!r} has one variance for all features, and "
                "no number is within the bounds of each: give the same bounds for all of them"
            )
        uneven = (least.amax(-1) - least.amin(-1) > _SAME_RATIO * least.amax(-1)) | (
            most.amax(-1) - most.amin(-1) > _SAME_RATIO * most.amax(-1)
        )
        if num_axes == 2 and value_of(uneven.any()):
            raise InvalidArgumentError(
                f"of the covariance {shape.covariance.name!r} upper / lower must be the same for "
                "all features: give numbers, or one of the two bounds alone"
            )

    def _in_units(self, lower: Tensor, upper: Tensor, num_axes: int) -> tuple[Tensor, ...]:
        """Bounds of eigenvalues in units `(*B, G, D)`, and the units, of a form of covariances."""
        if num_axes == 0:
            # One variance for all features.
            lower, upper = lower.amax(-1, keepdim=True), upper.amin(-1, keepdim=True)
        if num_axes < 2:
            return lower, upper, torch.ones_like(lower)
        has_lower = (lower > 0).any(-1, keepdim=True)
        finite = torch.where(torch.isinf(upper), 1.0, upper)
        unit = torch.where(has_lower, lower.clamp(min=torch.finfo(lower.dtype).tiny), finite)
        return lower / unit, upper / unit, unit

    def _clamp(self, values: Tensor, weight: Tensor, tolerance: float) -> Tensor:
        """Covariances `(*S, *B, G, ...)` between the bounds."""
        num_axes = values.dim() - weight.dim()
        least, most, unit = self._in_units(*self.bounds_like(values), num_axes)
        if num_axes == 2:
            root = unit.sqrt()
            scaled = values / root.unsqueeze(-1) / root.unsqueeze(-2)
            # The ratios are the same for all features.
            least, most = least[..., :1], most[..., :1]
            clamped = map_eigenvalues(scaled, 2, partial(_clamp, least, most), tolerance)
            back = clamped * root.unsqueeze(-1) * root.unsqueeze(-2)
            same = (clamped == scaled).all(-1).all(-1)[..., None, None]
            return torch.where(same, values, back)
        return map_eigenvalues(values, num_axes, partial(_clamp, least, most), tolerance)

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        return change_scatter(moments, self._clamp)

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        return change_scale(parameters, covariance, self._clamp)


def _clamp(least: Tensor, most: Tensor, values: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(values, least), most)

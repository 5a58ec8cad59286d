"""Diagonal covariances by standard deviations: `diag` and `tied_diag`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances._conjugate import FeaturewiseInverseGamma
from gmm_lightning.covariances._features import Features, NaturalParameters, StandardizedCoordinates
from gmm_lightning.covariances.base import Covariance
from gmm_lightning.linalg import unsqueeze_like


class DiagonalFeatures(Features):
    """The squares `z_d^2`, for diagonal covariances: scale `(P, M, D)` standard deviations."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.num_terms = num_features

    def variances(self, scale: Tensor) -> Tensor:
        return scale.square()

    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        precision = (coordinates.inverse_matrix.unsqueeze(-2) / scale).square()
        offset = coordinates.forward(gap)
        square = (precision * offset.square()).sum(-1)
        reach = precision * (1 / precision + offset.square())
        return NaturalParameters(
            quadratic=-0.5 * precision,
            linear=precision * offset,
            square=square,
            magnitude=torch.linalg.vector_norm(reach, dim=-1) + square,
        )

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        def write() -> None:
            torch.mul(z, z, out=terms)

        return write

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        return sums * coordinates.inverse_matrix.square().unsqueeze(-2)


@dataclass(frozen=True)
class AxisAligned(Covariance, ABC):
    """Diagonal covariances, spherical ones included: scales are standard deviations.

    Scale and scatter have one form, `(*B, G, D)` or `(*B, G)`.
    """

    axis_aligned: ClassVar[bool] = True
    whitens_by_solve: ClassVar[bool] = False
    has_rounding_floor: ClassVar[bool] = False  # sums of squares have no other noise

    @abstractmethod
    def _per_feature(self, values: Tensor, num_features: int) -> Tensor:
        """Scales or scatters with an axis of features, `(*B, G, D)`."""

    def _sum_entries(self, values: Tensor) -> Tensor:
        """Sums of values of the raw parameter's form over each covariance, `(*B, G)`."""
        return values if len(self.shape(1, 1)) == 1 else values.sum(-1)

    @abstractmethod
    def _from_features(self, values: Tensor) -> Tensor:
        """Variances `(..., D)` in the form of the scatter."""

    def scale(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def raw(self, scale: Tensor) -> Tensor:
        return scale.log()

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        return torch.ones(self.shape(num_components, num_features), dtype=torch.bool)

    def log_jacobian(self, raw: Tensor) -> Tensor:
        return self._sum_entries(2 * raw + math.log(2))

    def log_jacobian_of_deviations(self, raw: Tensor, *, flat: bool = False) -> Tensor:
        return self._sum_entries(raw)

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return (scatter / unsqueeze_like(dof, scatter)).sqrt()

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return math.prod(self.shape(num_components, num_features))

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        return self._per_feature(scale, num_features).diag_embed()

    def covariance_matrix(self, scale: Tensor, num_features: int) -> Tensor:
        return self.scale_tril(scale.square(), num_features)

    def whiten(self, scale: Tensor, diff: Tensor) -> Tensor:
        return diff / self._per_feature(scale, diff.shape[-1])

    def unwhiten(self, scale: Tensor, noise: Tensor) -> Tensor:
        return self._per_feature(scale, noise.shape[-1]) * noise

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        return self._per_feature(scale.log(), num_features).sum(-1)

    def trace_precision_product(
        self, scale: Tensor, projected: Tensor, num_features: int
    ) -> Tensor:
        return self._per_feature(projected / scale.square(), num_features).sum(-1)

    def condition(
        self, scale: Tensor, given: Tensor, rest: Tensor, num_features: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        known = self.marginal(scale, given, num_features)
        return known, self.marginal(scale, rest, num_features), None

    def outer(self, weights: Tensor, diff: Tensor) -> Tensor:
        squares = self._from_features(diff.square())
        second = (unsqueeze_like(weights, squares) * squares).sum(0)
        return second.sum(weights.dim() - 2, keepdim=True) if self.tied else second

    def project(self, matrix: Tensor) -> Tensor:
        return self._from_features(matrix.diagonal(dim1=-2, dim2=-1))

    def variances(self, scatter: Tensor, num_features: int) -> Tensor:
        return self._per_feature(scatter, num_features)

    def is_below(self, scatter: Tensor, dof: Tensor, bound: Tensor) -> Tensor:
        least = self._from_features(bound * dof.unsqueeze(-1))
        return (scatter < least).reshape(*dof.shape, -1).any(-1)

    def raise_to(self, scatter: Tensor, dof: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        least = self._from_features(bound * dof.unsqueeze(-1))
        smallest = (scatter / least).reshape(*dof.shape, -1).amin(-1)
        smallest = torch.where(smallest < 1, smallest, float("inf"))
        return torch.maximum(scatter, least), smallest


@dataclass(frozen=True)
class Diagonal(AxisAligned, ABC):
    """Diagonal covariances: scale `(*B, G, D)` standard deviations, scatter `(*B, G, D)`."""

    feature_class = DiagonalFeatures
    conjugate_class = FeaturewiseInverseGamma

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features)

    def _per_feature(self, values: Tensor, num_features: int) -> Tensor:
        return values

    def _from_features(self, values: Tensor) -> Tensor:
        return values

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        return scale[..., kept]


@dataclass(frozen=True)
class DiagCovariance(Diagonal):
    """Diagonal `Sigma_k = diag(s_k^2)`; the scale holds the standard deviations, `(*B, K, D)`.

    Example:
        >>> DiagCovariance().num_free_parameters(num_components=3, num_features=2)
        6
    """

    name: ClassVar[str] = "diag"


@dataclass(frozen=True)
class TiedDiagCovariance(Diagonal):
    """Shared diagonal `Sigma_k = diag(s^2)`; the scale holds standard deviations, `(*B, 1, D)`.

    Example:
        >>> TiedDiagCovariance().num_free_parameters(num_components=3, num_features=2)
        2
    """

    name: ClassVar[str] = "tied_diag"
    tied: ClassVar[bool] = True

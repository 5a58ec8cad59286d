"""Spherical covariances by one standard deviation: `spherical` and `tied_spherical`."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances._conjugate import IsotropicInverseGamma
from gmm_lightning.covariances._features import Features, NaturalParameters, StandardizedCoordinates
from gmm_lightning.covariances.diagonal import AxisAligned


class SphericalFeatures(Features):
    """The squared length `|z|^2`, for spherical covariances: scale `(P, M)` standard deviations."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.num_terms, self.num_scratch = 1, num_features

    def variances(self, scale: Tensor) -> Tensor:
        return scale.square().unsqueeze(-1).expand(*scale.shape, self.num_features)

    def unit(self, variance: Tensor) -> Tensor:
        return variance.mean(-1, keepdim=True).expand_as(variance)

    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        precision = (coordinates.inverse_matrix[..., :1] / scale).square()
        offset = coordinates.forward(gap)
        square = precision * offset.square().sum(-1)
        return NaturalParameters(
            quadratic=-0.5 * precision.unsqueeze(-1),
            linear=precision.unsqueeze(-1) * offset,
            square=square,
            magnitude=self.num_features**0.5 + 2 * square,
        )

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        own, scratch = z[:, : self.num_features], z[:, self.num_features :]

        def write() -> None:
            torch.mul(own, own, out=scratch)
            torch.sum(scratch, 1, keepdim=True, out=terms)

        return write

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        return sums.squeeze(-1) * coordinates.inverse_matrix[..., :1].square() / self.num_features


@dataclass(frozen=True)
class Isotropic(AxisAligned, ABC):
    """Spherical covariances: scale `(*B, G)` standard deviations, scatter `(*B, G)` per feature.

    `dof D log s^2 + tr(S) / s^2` is minimal at `s^2 = tr(S) / (D dof)`: with the mean over
    features, `tr(S) / D`, as the scatter, D drops out of the estimate.
    """

    feature_class = SphericalFeatures
    conjugate_class = IsotropicInverseGamma

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components),)

    def _per_feature(self, values: Tensor, num_features: int) -> Tensor:
        return values.unsqueeze(-1).expand(*values.shape, num_features)

    def _from_features(self, values: Tensor) -> Tensor:
        return values.mean(-1)

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        return num_features * scale.log()

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        return scale


@dataclass(frozen=True)
class SphericalCovariance(Isotropic):
    """Spherical `Sigma_k = s_k^2 I`; the scale holds the standard deviations, `(*B, K)`.

    Example:
        >>> SphericalCovariance().num_free_parameters(num_components=3, num_features=2)
        3
    """

    name: ClassVar[str] = "spherical"


@dataclass(frozen=True)
class TiedSphericalCovariance(Isotropic):
    """Shared spherical `Sigma_k = s^2 I`; the scale holds the standard deviation, `(*B, 1)`.

    Example:
        >>> TiedSphericalCovariance().num_free_parameters(num_components=3, num_features=2)
        1
    """

    name: ClassVar[str] = "tied_spherical"
    tied: ClassVar[bool] = True

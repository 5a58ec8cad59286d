"""One free ellipsoid shared by all components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gmm_lightning.covariances import _dense
from gmm_lightning.covariances._features import Features, Linear, Products
from gmm_lightning.covariances.base import Covariance


@dataclass(frozen=True)
class TiedCovariance(Covariance):
    """`Sigma_k = L L'` with one lower Cholesky factor for all components.

    The scale is the factor, `(*B, 1, D, D)`; the scatter is pooled over components.

    Example:
        >>> TiedCovariance().num_free_parameters(num_components=3, num_features=2)
        3
    """

    name: ClassVar[str] = "tied"
    aliases: ClassVar[tuple[str, ...]] = ("tied_full",)
    tied: ClassVar[bool] = True

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (1, num_features, num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return _dense.scale(raw)

    def raw(self, scale: Tensor) -> Tensor:
        return _dense.raw(scale)

    def raw_units(self, unit: Tensor, num_components: int) -> Tensor:
        return _dense.raw_units(unit, self.groups(num_components))

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return _dense.estimate(scatter, dof)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return num_features * (num_features + 1) // 2

    def features(self, num_features: int) -> Features:
        return Linear(Products(num_features))

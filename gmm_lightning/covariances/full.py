"""A free ellipsoid per component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gmm_lightning.covariances import _dense
from gmm_lightning.covariances._features import Features, Products
from gmm_lightning.covariances.base import Covariance


@dataclass(frozen=True)
class FullCovariance(Covariance):
    """`Sigma_k = L_k L_k'` with its own lower Cholesky factor per component.

    The scale is the factor, `(*B, K, D, D)`. The raw parameter holds the strict lower part as
    it is and the logarithm of the diagonal; its upper triangle is never used.

    Example:
        >>> FullCovariance().num_free_parameters(num_components=3, num_features=2)
        9
    """

    name: ClassVar[str] = "full"

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (num_components, num_features, num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return _dense.scale(raw)

    def raw(self, scale: Tensor) -> Tensor:
        return _dense.raw(scale)

    def raw_units(self, unit: Tensor, num_components: int) -> Tensor:
        return _dense.raw_units(unit, self.groups(num_components))

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return _dense.estimate(scatter, dof)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return num_components * num_features * (num_features + 1) // 2

    def features(self, num_features: int) -> Features:
        return Products(num_features)

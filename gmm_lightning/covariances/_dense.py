"""Dense covariances by lower Cholesky factors, the base of `full` and `tied`."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning.covariances._features import Features, QuadraticFeatures, TiedFeatures
from gmm_lightning.covariances.base import Covariance
from gmm_lightning.linalg import raw_from_tril, symmetrize, tril_from_raw


@dataclass(frozen=True)
class Dense(Covariance, ABC):
    """Free ellipsoids: scale `(*B, G, D, D)` lower factors, scatter `(*B, G, D, D)`.

    The raw parameter holds the strict lower part as it is and the logarithm of the diagonal; its
    upper triangle is never used.
    """

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features, num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return tril_from_raw(raw)

    def raw(self, scale: Tensor) -> Tensor:
        return raw_from_tril(scale)

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        diagonal = torch.eye(num_features, dtype=torch.bool)
        return diagonal.expand(self.shape(num_components, num_features))

    def raw_entry_scales(self, unit: Tensor, num_components: int) -> Tensor:
        # An entry below the diagonal has the unit of its row.
        d = unit.shape[-1]
        rows = unit[..., None, :, None].expand(*unit.shape[:-1], *self.shape(num_components, d))
        below = torch.ones(d, d, dtype=torch.bool, device=unit.device).tril(-1)
        return torch.where(below, rows, 1.0)

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(symmetrize(scatter) / dof[..., None, None])
        return torch.where((info != 0)[..., None, None], torch.nan, factor)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return self.groups(num_components) * num_features * (num_features + 1) // 2

    def features(self, num_features: int) -> Features | None:
        terms = QuadraticFeatures(num_features)
        return TiedFeatures(terms) if self.tied else terms

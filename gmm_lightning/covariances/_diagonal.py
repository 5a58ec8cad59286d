"""Diagonal covariances by standard deviations, the base of `diag` and `tied_diag`."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances._features import DiagonalFeatures, Features, TiedFeatures
from gmm_lightning.covariances.base import Covariance


@dataclass(frozen=True)
class Diagonal(Covariance, ABC):
    """Axis-aligned ellipsoids: scale `(*B, G, D)` standard deviations, scatter `(*B, G, D)`."""

    whitens_by_solve: ClassVar[bool] = False

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def raw(self, scale: Tensor) -> Tensor:
        return scale.log()

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        return torch.ones(self.shape(num_components, num_features), dtype=torch.bool)

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return (scatter / dof.unsqueeze(-1)).sqrt()

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return self.groups(num_components) * num_features

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.diag_embed()

    def covariance_matrix(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.square().diag_embed()

    def whiten(self, scale: Tensor, diff: Tensor) -> Tensor:
        return diff / scale

    def unwhiten(self, scale: Tensor, noise: Tensor) -> Tensor:
        return scale * noise

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.log().sum(-1)

    def trace_precision_product(
        self, scale: Tensor, projected: Tensor, num_features: int
    ) -> Tensor:
        return (projected / scale.square()).sum(-1)

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        return scale[..., kept]

    def condition(
        self, scale: Tensor, given: Tensor, rest: Tensor, num_features: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return scale[..., given], scale[..., rest], None

    def features(self, num_features: int) -> Features:
        terms = DiagonalFeatures(num_features)
        return TiedFeatures(terms) if self.tied else terms

    def outer(self, weights: Tensor, diff: Tensor) -> Tensor:
        second = (weights.unsqueeze(-1) * diff.square()).sum(0)
        return second.sum(-2, keepdim=True) if self.tied else second

    def project(self, matrix: Tensor) -> Tensor:
        return matrix.diagonal(dim1=-2, dim2=-1)

    def variances(self, scatter: Tensor, num_features: int) -> Tensor:
        return scatter

    def variance_floor(
        self,
        scatter: Tensor,
        dof: Tensor,
        variance: Tensor,
        eps: float,
        scale: Tensor | None = None,
    ) -> Tensor:
        # Sums of squares have no noise beyond their own size.
        return self._share_of(variance)

    def floor(self, scatter: Tensor, dof: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        least = bound * dof.unsqueeze(-1)
        smallest = (scatter / least).amin(-1)
        smallest = torch.where(smallest < 1, smallest, float("inf"))
        return torch.maximum(scatter, least), smallest

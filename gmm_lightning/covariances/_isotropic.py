"""Round covariances by one standard deviation, the base of `spherical` and `tied_spherical`."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances._features import Features, SphericalFeatures, TiedFeatures
from gmm_lightning.covariances.base import Covariance


@dataclass(frozen=True)
class Isotropic(Covariance, ABC):
    """Balls: scale `(*B, G)` standard deviations; the scatter is averaged over features, `(*B, G)`.

    `dof D log s^2 + tr(S) / s^2` is least at `s^2 = tr(S) / (D dof)`: with `tr(S) / D` as the
    scatter, D drops out of the estimate.
    """

    whitens_by_solve: ClassVar[bool] = False

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components),)

    def scale(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def raw(self, scale: Tensor) -> Tensor:
        return scale.log()

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        return torch.ones(self.shape(num_components, num_features), dtype=torch.bool)

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return (scatter / dof).sqrt()

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return self.groups(num_components)

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.unsqueeze(-1).expand(*scale.shape, num_features).diag_embed()

    def covariance_matrix(self, scale: Tensor, num_features: int) -> Tensor:
        return self.scale_tril(scale.square(), num_features)

    def whiten(self, scale: Tensor, diff: Tensor) -> Tensor:
        return diff / scale.unsqueeze(-1)

    def unwhiten(self, scale: Tensor, noise: Tensor) -> Tensor:
        return scale.unsqueeze(-1) * noise

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        return num_features * scale.log()

    def trace_precision_product(
        self, scale: Tensor, projected: Tensor, num_features: int
    ) -> Tensor:
        return num_features * projected / scale.square()

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        return scale

    def condition(
        self, scale: Tensor, given: Tensor, rest: Tensor, num_features: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return scale, scale, None

    def features(self, num_features: int) -> Features:
        terms = SphericalFeatures(num_features)
        return TiedFeatures(terms) if self.tied else terms

    def outer(self, weights: Tensor, diff: Tensor) -> Tensor:
        second = (weights * diff.square().mean(-1)).sum(0)
        return second.sum(-1, keepdim=True) if self.tied else second

    def project(self, matrix: Tensor) -> Tensor:
        return matrix.diagonal(dim1=-2, dim2=-1).mean(-1)

    def variances(self, scatter: Tensor, num_features: int) -> Tensor:
        return scatter.unsqueeze(-1).expand(*scatter.shape, num_features)

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
        least = bound.mean(-1) * dof
        smallest = scatter / least
        smallest = torch.where(smallest < 1, smallest, float("inf"))
        return torch.maximum(scatter, least), smallest

"""Dense covariances by lower Cholesky factors: `full` and `tied`."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances._conjugate import DenseInverseWishart
from gmm_lightning.covariances._features import (
    Features,
    NaturalParameters,
    StandardizedCoordinates,
    usable_unit,
)
from gmm_lightning.covariances.base import Covariance
from gmm_lightning.linalg import invert_tril, raw_from_tril, symmetrize, tril_from_raw


class QuadraticFeatures(Features):
    """All products `z_i z_j`, for dense covariances: scale `(P, M, D, D)` lower factors.

    The coordinates whiten by the covariance of the whole mixture, so the correlation that all
    components share costs no precision. Terms are ordered by the distance of j from i,
    cyclically: one multiplication of z with a window that slides over a repeated z gives all.
    """

    wide_products_pay = False

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        d = num_features
        self.num_terms = d * (d + 1) // 2
        self.shifts = (d + 1) // 2
        self.num_scratch = self.shifts - 1
        term = torch.arange(self.num_terms)
        self.first, self.other = term % d, (term % d + term // d) % d
        # A product of two features stands in the matrix twice.
        self.share = torch.where(self.first == self.other, -0.5, -1.0).double()

    def products_pay(self, num_components: int, overlap: float | None) -> bool:
        # In N D^2 operations of a product, fitted to times on a CPU with one thread: the terms of
        # a row cost 14 for any K; sums of whitened rows are over those that a component has.
        k, d = num_components, self.num_features
        shared = k if overlap is None else min(k, overlap)
        return 2 * k + 14 < 1.25 * k + 28 * k / d + (1 + 40 / d) * shared

    def variances(self, scale: Tensor) -> Tensor:
        return scale.square().sum(-1)

    def axes(self, weights: Tensor, gap: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        factors = torch.cat([scale, gap.unsqueeze(-1)], -1) * weights.sqrt()[..., None, None]
        flat = factors.movedim(1, -2).flatten(-2)
        total = flat @ flat.mT
        unit = usable_unit(total.diagonal(dim1=-2, dim2=-1))
        forward = 1 / unit
        factor, info = torch.linalg.cholesky_ex(
            total * forward.unsqueeze(-1) * forward.unsqueeze(-2)
        )
        identity = torch.eye(self.num_features, dtype=scale.dtype, device=scale.device)
        usable = (info == 0) & torch.isfinite(factor).all(-1).all(-1)
        factor = torch.where(usable[:, None, None], factor, identity)
        return invert_tril(factor) * forward.unsqueeze(-2), factor * unit.unsqueeze(-1)

    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        both = torch.cat(
            [coordinates.inverse_matrix.unsqueeze(1).expand_as(scale), gap.unsqueeze(-1)], -1
        )
        white = torch.linalg.solve_triangular(scale, both, upper=False)
        axes, offset = white[..., :-1], white[..., -1:]
        precision, square = axes.mT @ axes, offset.squeeze(-1).square().sum(-1)
        spread = (coordinates.matrix.unsqueeze(1) @ scale).square().sum(-1)
        reach = (spread + coordinates.forward(gap).square()).sqrt()
        cancelling = precision * reach.unsqueeze(-1) * reach.unsqueeze(-2)
        return NaturalParameters(
            quadratic=precision[..., self.first, self.other] * self.share.to(scale),
            linear=(axes.mT @ offset).squeeze(-1),
            square=square,
            magnitude=torch.linalg.matrix_norm(cancelling) + square,
        )

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        d, whole = self.num_features, self.shifts * self.num_features
        p, _, n = z.shape
        windows = z.as_strided((p, self.shifts, d, n), (z.stride(0), n, n, 1), z.storage_offset())
        cyclic = terms[:, :whole].view(p, self.shifts, d, n)
        rest = self.num_terms - whole
        own, again = z[:, : self.num_scratch], z[:, d : d + self.num_scratch]
        half = (z[:, self.shifts : self.shifts + rest], z[:, :rest], terms[:, whole:])
        repeated = z[:, None, :d]

        def write() -> None:
            again.copy_(own)
            torch.mul(windows, repeated, out=cyclic)
            if rest:
                torch.mul(half[0], half[1], out=half[2])

        return write

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        d = self.num_features
        matrix = sums.new_zeros(*sums.shape[:-1], d, d)
        matrix[..., self.first, self.other] = sums
        matrix[..., self.other, self.first] = sums
        back = coordinates.inverse_matrix.unsqueeze(1)
        return back @ matrix @ back.mT


@dataclass(frozen=True)
class Dense(Covariance, ABC):
    """Dense covariances: scale `(*B, G, D, D)` lower factors, scatter `(*B, G, D, D)`.

    The raw parameter holds the strict lower part as it is and the logarithm of the diagonal; its
    upper triangle is never used.
    """

    feature_class = QuadraticFeatures
    conjugate_class = DenseInverseWishart

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features, num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return tril_from_raw(raw)

    def raw(self, scale: Tensor) -> Tensor:
        return raw_from_tril(scale)

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        diagonal = torch.eye(num_features, dtype=torch.bool)
        return diagonal.expand(self.shape(num_components, num_features))

    def log_jacobian(self, raw: Tensor) -> Tensor:
        # |d Sigma / d L| = 2^D prod_i L_ii^(D - i + 1), and the diagonal is an exponential.
        d, log_diagonal = raw.shape[-1], raw.diagonal(dim1=-2, dim2=-1)
        powers = torch.arange(d + 1, 1, -1, dtype=raw.dtype, device=raw.device)
        return (powers * log_diagonal).sum(-1) + d * math.log(2)

    def log_jacobian_of_deviations(self, raw: Tensor, *, flat: bool = False) -> Tensor:
        # A row of L is s_i times a point of a half-sphere: |d L_i / d (s_i, R_i)| is
        # s_i^(i - 1) / R_ii.
        d, log_diagonal = raw.shape[-1], raw.diagonal(dim1=-2, dim2=-1)
        log_deviation = self.scale(raw).square().sum(-1).log() / 2
        number = torch.arange(1, d + 1, dtype=raw.dtype, device=raw.device)
        found = 2 * log_diagonal - number * log_deviation
        if flat:
            # |d (R R') / d R| = prod_i R_ii^(D - i)
            found = found + (d - number) * (log_diagonal - log_deviation)
        return found.sum(-1)

    def raw_entry_scales(self, unit: Tensor, num_components: int) -> Tensor:
        # An entry below the diagonal has the unit of its row.
        d = unit.shape[-1]
        rows = unit[..., None, :, None].expand(*unit.shape[:-1], *self.shape(num_components, d))
        below = torch.ones(d, d, dtype=torch.bool, device=unit.device).tril(-1)
        return torch.where(below, rows, 1.0)

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(symmetrize(scatter) / dof[..., None, None])
        return factor.masked_fill_((info != 0)[..., None, None], torch.nan)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return self.groups(num_components) * num_features * (num_features + 1) // 2


@dataclass(frozen=True)
class FullCovariance(Dense):
    """Dense `Sigma_k = L_k L_k'`; the scale holds the lower Cholesky factors, `(*B, K, D, D)`.

    Example:
        >>> FullCovariance().num_free_parameters(num_components=3, num_features=2)
        9
    """

    name: ClassVar[str] = "full"


@dataclass(frozen=True)
class TiedCovariance(Dense):
    """Shared dense `Sigma_k = L L'`; the scale holds the lower Cholesky factor, `(*B, 1, D, D)`.

    Example:
        >>> TiedCovariance().num_free_parameters(num_components=3, num_features=2)
        3
    """

    name: ClassVar[str] = "tied"
    aliases: ClassVar[tuple[str, ...]] = ("tied_full",)
    tied: ClassVar[bool] = True

"""Dense covariances by the inverse of their factor: the form in which a network predicts them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances._dense import Dense
from gmm_lightning.covariances._features import Features
from gmm_lightning.linalg import factor_of_rows


@dataclass(frozen=True)
class InverseDense(Dense, ABC):
    """Free ellipsoids as `Sigma^-1 = A' A`, with A the inverse of the lower Cholesky factor.

    The scale `(*B, G, D (D + 1) / 2)` holds `log L_dd = -log A_dd`, then the entries of A below
    its diagonal, row by row: nothing is stored twice. Whitening is a product, `A (x - mu)`: where
    a factor of the covariance would be solved with, errors of one feature multiply from row to
    row, and entries of 1e4, which a network may well predict, overflow float32.

    References:
        P. M. Williams (1996), Using neural networks to model conditional multivariate densities,
        Neural Computation 8.
    """

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features * (num_features + 1) // 2)

    def scale(self, raw: Tensor) -> Tensor:
        return raw

    def raw(self, scale: Tensor) -> Tensor:
        return scale

    def raw_entry_scales(self, unit: Tensor, num_components: int) -> Tensor:
        # An entry below the diagonal multiplies the feature of its column.
        columns = torch.tril_indices(unit.shape[-1], unit.shape[-1], -1, device=unit.device)[1]
        entries = torch.cat([torch.ones_like(unit), 1 / unit[..., columns]], -1)
        return entries.unsqueeze(-2).expand(
            *unit.shape[:-1], *self.shape(num_components, unit.shape[-1])
        )

    def on_logs(
        self, change: Callable[..., Tensor], num_features: int, raw: Tensor, *others: Tensor
    ) -> Tensor:
        logs, below = raw.split((num_features, raw.shape[-1] - num_features), -1)
        changed = change(logs, *(other[..., :num_features] for other in others))
        return torch.cat([changed, below], -1)

    def predicted(self) -> InverseDense:
        return self

    # -- density ----------------------------------------------------------------------------

    def whiten(self, scale: Tensor, diff: Tensor) -> Tensor:
        return self.whiten_raw(lambda logs: logs, diff, scale)[0]

    def whiten_raw(
        self, change: Callable[..., Tensor], diff: Tensor, raw: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor]:
        d = diff.shape[-1]
        # Split once: every slice on its own would have a gradient of the size of the whole.
        logs, below = raw.split((d, raw.shape[-1] - d), -1)
        logs = change(logs, *(other[..., :d] for other in others))
        white = diff * torch.exp(-logs)
        if d > 1:
            # Products with matrices of zeros and ones pick columns and add up rows, which is
            # faster than indices, forwards and backwards.
            rows, columns = torch.tril_indices(d, d, -1, device=diff.device)
            every = torch.arange(d, device=diff.device)
            pick = (every.unsqueeze(-1) == columns).to(diff)
            gather = (rows.unsqueeze(-1) == every).to(diff)
            white = white + (below * (diff @ pick)) @ gather
        return white, logs.sum(-1)

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        return scale[..., :num_features].sum(-1)

    def trace_precision_product(
        self, scale: Tensor, projected: Tensor, num_features: int
    ) -> Tensor:
        inverse = self.inverse_tril(scale, num_features)
        return ((inverse @ projected) * inverse).sum((-2, -1))

    def inverse_tril(self, scale: Tensor, num_features: int) -> Tensor:
        """A, dense, `(*B, G, D, D)`."""
        rows, columns = torch.tril_indices(num_features, num_features, -1, device=scale.device)
        below = scale.new_zeros(*scale.shape[:-1], num_features, num_features)
        below[..., rows, columns] = scale[..., num_features:]
        return below + torch.exp(-scale[..., :num_features]).diag_embed()

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        inverse = self.inverse_tril(scale, num_features)
        identity = torch.eye(num_features, dtype=scale.dtype, device=scale.device)
        return torch.linalg.solve_triangular(inverse, identity.expand_as(inverse), upper=False)

    # -- parts and estimates ----------------------------------------------------------------

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        return packed_inverse(factor_of_rows(self.scale_tril(scale, num_features)[..., kept, :]))

    def condition(
        self, scale: Tensor, given: Tensor, rest: Tensor, num_features: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        known, unknown, slope = super().condition(scale, given, rest, num_features)
        return packed_inverse(known), packed_inverse(unknown), slope

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return packed_inverse(super().estimate(scatter, dof))

    def features(self, num_features: int) -> Features | None:
        return None


def packed_inverse(factor: Tensor) -> Tensor:
    """The scale of lower Cholesky factors `(*B, G, D, D)`."""
    d = factor.shape[-1]
    identity = torch.eye(d, dtype=factor.dtype, device=factor.device).expand_as(factor)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    rows, columns = torch.tril_indices(d, d, -1, device=factor.device)
    logs = factor.diagonal(dim1=-2, dim2=-1).log()
    return torch.cat([logs, inverse[..., rows, columns]], -1)


@dataclass(frozen=True)
class FullInverse(InverseDense):
    """A free ellipsoid for each component."""

    name: ClassVar[str] = "full"


@dataclass(frozen=True)
class TiedInverse(InverseDense):
    """One free ellipsoid for all components."""

    name: ClassVar[str] = "tied"
    tied: ClassVar[bool] = True

"""Dense covariances by Cholesky factors of their precisions, as networks predict them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances.dense import Dense
from gmm_lightning.linalg import factor_of_rows, invert_tril


@dataclass(frozen=True)
class PrecisionCholesky(Dense):
    """Dense covariances as `Sigma^-1 = A' A`, with A the inverse of the lower Cholesky factor.

    The scale `(*B, G, D (D + 1) / 2)` holds `log L_dd = -log A_dd`, then the entries of A below
    its diagonal, row by row, without redundant entries. Whitening is a product, `A (x - mu)`: in
    a solve with a factor of the covariance, errors of one feature multiply from row to row, and
    entries of 1e4, which a network may predict, overflow float32.

    References:
        P. M. Williams (1996), Using neural networks to model conditional multivariate densities,
        Neural Computation 8.

    Example:
        >>> PrecisionCholesky().shape(num_components=3, num_features=2)
        (3, 3)
    """

    name: ClassVar[str] = "precision_cholesky"
    whitens_by_solve: ClassVar[bool] = False
    feature_class = None

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features * (num_features + 1) // 2)

    def scale(self, raw: Tensor) -> Tensor:
        return raw

    def raw(self, scale: Tensor) -> Tensor:
        return scale

    def rescale(self, scale: Tensor, factor: float, num_features: int) -> Tensor:
        logs, below = scale.split((num_features, scale.shape[-1] - num_features), -1)
        return torch.cat([logs + math.log(factor), below / factor], -1)

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        shape = self.shape(num_components, num_features)
        return (torch.arange(shape[-1]) < num_features).expand(shape)

    def raw_entry_scales(self, unit: Tensor, num_components: int) -> Tensor:
        # An entry below the diagonal multiplies the feature of its column.
        columns = torch.tril_indices(unit.shape[-1], unit.shape[-1], -1, device=unit.device)[1]
        entries = torch.cat([torch.ones_like(unit), 1 / unit[..., columns]], -1)
        return entries.unsqueeze(-2).expand(
            *unit.shape[:-1], *self.shape(num_components, unit.shape[-1])
        )

    # -- density ----------------------------------------------------------------------------

    def whiten(self, scale: Tensor, diff: Tensor) -> Tensor:
        # Split once: the gradient of every separate slice would have the size of the whole.
        logs, below = scale.split((diff.shape[-1], scale.shape[-1] - diff.shape[-1]), -1)
        return self.whiten_parts(logs, below, diff)

    def whiten_parts(self, logs: Tensor, below: Tensor, diff: Tensor) -> Tensor:
        """Whitened differences by the two parts of a scale, of D and `D (D - 1) / 2` entries."""
        d = diff.shape[-1]
        white = diff * torch.exp(-logs)
        if d > 1:
            # Products with matrices of zeros and ones pick columns and add up rows, which is
            # faster than indices, forwards and backwards.
            rows, columns = torch.tril_indices(d, d, -1, device=diff.device)
            every = torch.arange(d, device=diff.device)
            pick = (every.unsqueeze(-1) == columns).to(diff)
            gather = (rows.unsqueeze(-1) == every).to(diff)
            white = white + (below * (diff @ pick)) @ gather
        return white

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        return scale[..., :num_features].sum(-1)

    def trace_precision_product(
        self, scale: Tensor, projected: Tensor, num_features: int
    ) -> Tensor:
        inverse = self.inverse_tril(scale, num_features)
        return ((inverse @ projected) * inverse).sum((-2, -1))

    def inverse_tril(self, scale: Tensor, num_features: int) -> Tensor:
        rows, columns = torch.tril_indices(num_features, num_features, -1, device=scale.device)
        below = scale.new_zeros(*scale.shape[:-1], num_features, num_features)
        below[..., rows, columns] = scale[..., num_features:]
        return below + torch.exp(-scale[..., :num_features]).diag_embed()

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        return invert_tril(self.inverse_tril(scale, num_features))

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        return _pack_inverse(factor_of_rows(self.scale_tril(scale, num_features)[..., kept, :]))

    def condition(
        self, scale: Tensor, given: Tensor, rest: Tensor, num_features: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        known, unknown, slope = super().condition(scale, given, rest, num_features)
        return _pack_inverse(known), _pack_inverse(unknown), slope

    # -- statistics -------------------------------------------------------------------------

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return _pack_inverse(super().estimate(scatter, dof))


@dataclass(frozen=True)
class TiedPrecisionCholesky(PrecisionCholesky):
    """One dense covariance shared by all components, in the same form."""

    name: ClassVar[str] = "tied_precision_cholesky"
    tied: ClassVar[bool] = True


def _pack_inverse(factor: Tensor) -> Tensor:
    """Scales `(*B, G, D (D + 1) / 2)` of lower Cholesky factors `(*B, G, D, D)`."""
    d = factor.shape[-1]
    rows, columns = torch.tril_indices(d, d, -1, device=factor.device)
    logs = factor.diagonal(dim1=-2, dim2=-1).log()
    return torch.cat([logs, invert_tril(factor)[..., rows, columns]], -1)

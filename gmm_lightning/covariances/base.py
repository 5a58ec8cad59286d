"""What a covariance family is: a stateless value that knows one structure of Sigma_k."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances._features import Features
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import factor_of_rows, solve_rows, symmetrize


@dataclass(frozen=True)
class Covariance(ABC):
    """A structure for the K covariances of a mixture.

    A family stores its covariances in a compact `scale` of shape `(*B, G, ...)`, where G is the
    number of *distinct* covariances: K, or 1 for a tied family. Sums over rows that the M-step
    needs (`second`, `scatter`) have the family's own compact form too, `(*B, G, ...)`.

    A new family implements the five abstract methods; whatever else is here works on dense
    lower Cholesky factors `(*B, G, D, D)` and is overridden where a structure allows better.

    Args:
        reg_covar: added to every variance after the estimate, in squared units of the data.
            It is scikit-learn's regularisation; the mode of the objective has 0.
        relative_floor: smallest eigenvalue allowed, relative to the variance of the data per
            feature. The estimate is the maximum subject to it, so EM stays monotone. With
            `reg_covar` it is at most 1e-14; 0 switches it off.
    """

    reg_covar: float = 0.0
    relative_floor: float = 1e-8

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    tied: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("reg_covar", "relative_floor"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InvalidArgumentError(
                    f"{field} of the covariance must be a finite number >= 0, got {value!r}"
                )

    # -- required ---------------------------------------------------------------------------

    @abstractmethod
    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        """Shape `(G, ...)` of `scale` and of its unconstrained parameter."""

    @abstractmethod
    def scale(self, raw: Tensor) -> Tensor:
        """Unconstrained parameter to scale; zeros become the identity covariance."""

    @abstractmethod
    def raw(self, scale: Tensor) -> Tensor:
        """Inverse of `scale`."""

    @abstractmethod
    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        """Scale of the covariance that maximises `-(dof log|S| + tr(scatter S^-1)) / 2`.

        Of a singular scatter, whose raw parameter is not finite, it may hold anything.
        """

    @abstractmethod
    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        """Number of free parameters in all covariances together."""

    def raw_entry_scales(self, unit: Tensor, num_components: int) -> Tensor:
        """What each raw entry is measured in, `(*B, G, ...)`, for features in units `(*B, D)`.

        One where the entry is a logarithm: steps in the parameters are compared in these units.
        """
        return unit.new_ones(*unit.shape[:-1], *self.shape(num_components, unit.shape[-1]))

    # -- for networks -----------------------------------------------------------------------

    def predicted(self) -> Covariance:
        """The same structure in the form in which a network predicts it best: itself."""
        return self

    def on_logs(
        self, change: Callable[..., Tensor], num_features: int, raw: Tensor, *others: Tensor
    ) -> Tensor:
        """Raw entries `(*B, G, ...)`, changed where they are logarithms of lengths.

        Args:
            change: of such entries, and of the same entries of the others.
            num_features: D.
            raw: the entries.
            others: what broadcasts against them.
        """
        # float32, as is the number below in ONNX.
        twice = torch.full((num_features,), 2.0, dtype=torch.float32, device=raw.device)
        groups = raw.shape[-len(self.shape(1, num_features))]
        return torch.where(self.raw_entry_scales(twice, groups) == 1, change(raw, *others), raw)

    def whiten_raw(
        self, change: Callable[..., Tensor], diff: Tensor, raw: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`whiten` and `half_log_det` by raw entries whose logarithms are changed first.

        A family overrides it where it can do without the scale, which would be as large as all
        parameters of a network's mixtures.
        """
        scale = self.scale(self.on_logs(change, diff.shape[-1], raw, *others))
        return self.whiten(scale, diff), self.half_log_det(scale, diff.shape[-1])

    # -- distinct covariances ---------------------------------------------------------------

    def groups(self, num_components: int) -> int:
        """G, the number of distinct covariances."""
        return 1 if self.tied else num_components

    def sum_tied(self, per_component: Tensor) -> Tensor:
        """Sum `(*B, K)` to `(*B, G)`: degrees of freedom and counts per distinct covariance."""
        return per_component.sum(-1, keepdim=True) if self.tied else per_component

    # -- density ----------------------------------------------------------------------------

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        """Dense lower Cholesky factors `(*B, G, D, D)`."""
        return scale

    def covariance_matrix(self, scale: Tensor, num_features: int) -> Tensor:
        """Dense covariances `(*B, G, D, D)`."""
        factor = self.scale_tril(scale, num_features)
        return factor @ factor.mT

    def whiten(self, scale: Tensor, diff: Tensor) -> Tensor:
        """`L^-1 d` for differences `(*S, *B, K, D)`: unit variances where the model is right."""
        return solve_rows(self.scale_tril(scale, diff.shape[-1]), diff)

    def unwhiten(self, scale: Tensor, noise: Tensor) -> Tensor:
        """`L z`, one factor per row: scale `(*R, ...)` and noise `(*R, D)`."""
        factor = self.scale_tril(scale, noise.shape[-1])
        return (factor @ noise.unsqueeze(-1)).squeeze(-1)

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        """`log|Sigma| / 2`, `(*B, G)`."""
        factor = self.scale_tril(scale, num_features)
        return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def trace_precision_product(
        self, scale: Tensor, projected: Tensor, num_features: int
    ) -> Tensor:
        """`tr(P Sigma^-1)`, `(*B, G)`, for a matrix P in the form that `project` returns."""
        factor = self.scale_tril(scale, num_features)
        half = torch.linalg.solve_triangular(factor, projected.expand_as(factor), upper=False)
        other = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        return other.diagonal(dim1=-2, dim2=-1).sum(-1)

    # -- parts ------------------------------------------------------------------------------

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        """The scale of some features alone, in their order, `(*B, G, ...)`."""
        return factor_of_rows(self.scale_tril(scale, num_features)[..., kept, :])

    def condition(
        self, scale: Tensor, given: Tensor, rest: Tensor, num_features: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What knowing some features says of the rest.

        With the features in the order (given, rest) and the factor in blocks
        `((L_gg, 0), (L_rg, L_rr))`: the slope `L_rg L_gg^-1` of the mean of the rest, whose
        covariance is `L_rr L_rr'`.

        Returns:
            The scale of the given features, that of the rest when they are known, and the slope
            `(*B, G, R, I)`, or None where the rest does not depend on them.
        """
        order = torch.cat([given, rest])
        factor = factor_of_rows(self.scale_tril(scale, num_features)[..., order, :])
        known, across = factor[..., : len(given), : len(given)], factor[..., len(given) :, :]
        across, unknown = across[..., : len(given)], across[..., len(given) :]
        slope = torch.linalg.solve_triangular(known, across, upper=False, left=False)
        return known, unknown, slope

    # -- statistics -------------------------------------------------------------------------

    def features(self, num_features: int) -> Features | None:
        """The terms that make EM two matrix products, or None: differences it is, then."""
        return None

    def outer(self, weights: Tensor, diff: Tensor) -> Tensor:
        """`sum_n w_nk d_nk d_nk'` in the family's form.

        Shape:
            weights `(N, *B, K)`, diff `(N, *B, K, D)` -> `(*B, G, ...)`.
        """
        rows = diff.movedim(0, -2)
        weighted = (weights.unsqueeze(-1) * diff).movedim(0, -2)
        if self.tied:
            rows, weighted = rows.flatten(-3, -2), weighted.flatten(-3, -2)
            return (weighted.mT @ rows).unsqueeze(-3)
        return weighted.mT @ rows

    def project(self, matrix: Tensor) -> Tensor:
        """A dense `(..., D, D)` matrix in the form of the family's scatter, `(..., *form)`."""
        return matrix

    def variances(self, scatter: Tensor, num_features: int) -> Tensor:
        """Diagonal of a scatter per feature, `(*B, G, D)`."""
        return scatter.diagonal(dim1=-2, dim2=-1)

    def variance_floor(
        self,
        scatter: Tensor,
        dof: Tensor,
        variance: Tensor,
        eps: float,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Smallest variance per feature that a covariance may have, `(*B, G, D)`.

        With `relative_floor` it is a share of the variance of the data, a constant. A dense
        covariance has `16 eps` of its own variances at least: what is flatter than that in some
        direction is made of rounding. As that bound moves with the component, it is lowered, to
        `eps` at most, until the present covariance satisfies it: so EM stays monotone.

        Args:
            scatter: `(*B, G, ...)` in the family's form.
            dof: what it is divided by, `(*B, G)`.
            variance: of the data per feature, `(*B, D)`.
            eps: machine precision of the parameters.
            scale: the present covariances; None: the bound is not lowered.
        """
        own = self.variances(scatter, variance.shape[-1]) / dof.unsqueeze(-1)
        own = self._unless_regularized(16 * eps) * own.clamp(min=0)
        if scale is not None:
            factor = self.scale_tril(scale.to(own), own.shape[-1])
            unit = torch.where(own > 0, own, torch.inf).sqrt().unsqueeze(-1)
            least = torch.linalg.svdvals(factor / unit)[..., -1:].square()
            own = own * least.clamp(min=1 / 16, max=1.0)
        return torch.maximum(self._share_of(variance), own)

    def _share_of(self, variance: Tensor) -> Tensor:
        return self._unless_regularized(self.relative_floor) * variance.unsqueeze(-2)

    def _unless_regularized(self, least: float) -> float:
        """With `reg_covar`, only what keeps a factorisation from failing: parity is exact."""
        return min(least, 1e-14) if self.reg_covar > 0 else least

    def floor(self, scatter: Tensor, dof: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Raise a scatter so that `scatter / dof >= diag(bound)` in the order of matrices.

        Eigenvalues below one, after scaling by `bound`, become one: the maximum of the
        likelihood under that constraint. Only components that violate it pay for an
        eigendecomposition; the others are certified by a Cholesky factorisation.

        Args:
            scatter: `(*B, G, ...)` in the family's form.
            dof: `(*B, G)`.
            bound: smallest variance per feature, `(*B, G, D)` or `(*B, 1, D)`.

        Returns:
            The scatter, and per covariance the smallest eigenvalue in units of `bound`, which
            is infinite where the constraint holds, `(*B, G)`.
        """
        unit = bound.expand(*dof.shape, bound.shape[-1]).sqrt()
        unit = (unit.unsqueeze(-1) * unit.unsqueeze(-2)) * dof[..., None, None]
        scaled = symmetrize(scatter) / unit
        identity = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
        low = torch.linalg.cholesky_ex(scaled - identity).info != 0
        smallest = torch.full_like(dof, float("inf"))
        if low.any():
            values, vectors = torch.linalg.eigh(scaled[low])
            raised = (vectors * values.clamp(min=1.0).unsqueeze(-2)) @ vectors.mT
            # What no other feature goes with stays so to the last digit: a constant column
            # beside large ones would take their rounding for its variance.
            alone = (scaled[low] != 0).sum(-1) <= 1
            apart = (alone.unsqueeze(-1) | alone.unsqueeze(-2)) & (identity == 0)
            raised = torch.where(apart, 0.0, raised)
            scatter = scatter.clone()
            scatter[low] = symmetrize(raised) * unit[low]
            smallest[low] = values[..., 0]
        return scatter, smallest

    # -- description ------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """The fields, as primitives: what rebuilds the family together with its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

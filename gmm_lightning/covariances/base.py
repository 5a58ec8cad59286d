"""The interface of covariance families: stateless objects, each for one structure of Sigma_k."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.covariances._conjugate import PosteriorForms
from gmm_lightning.covariances._features import Features, make_features
from gmm_lightning.covariances._floor import (
    in_units,
    is_below_one,
    raise_to_one,
    satisfied_bound,
)
from gmm_lightning.linalg import factor_of_rows, solve_rows

# Shares of a component's variances that an eigenvalue has at least, in units of the machine
# precision, and absolutely. Rounding moves an eigenvalue by a share eps / share of itself, and the
# objective of a covariance at this bound, where its slope is not zero, by half of that.
_ROUNDING, _LEAST = 128.0, 1e-8


@dataclass(frozen=True)
class Covariance(PosteriorForms, ABC):
    """A structure for the K covariances of a mixture.

    A family stores its covariances in a compact `scale` of shape `(*B, G, ...)`, where G is the
    number of *distinct* covariances: K, or 1 for a tied family. Sums over rows that the M-step
    needs (`second`, `scatter`) have a compact form `(*B, G, ...)` too.

    A new family implements the five abstract methods, `log_scale_mask` if networks are to predict
    it, and `log_jacobian` if posteriors are to be sampled. The other defaults work on dense lower
    Cholesky factors `(*B, G, D, D)`.

    Args:
        reg_covar: added to every variance after the estimate, as in scikit-learn; the mode has 0.
        relative_floor: smallest eigenvalue allowed, in units of the squared local scale of each
            feature (`GMMLayer.local_scale`). The estimate is the maximum subject to it, so EM
            stays monotone. With `reg_covar` it is at most 1e-14; 0 switches it off.
    """

    reg_covar: float = 0.0
    relative_floor: float = 1e-8

    aliases: ClassVar[tuple[str, ...]] = ()
    tied: ClassVar[bool] = False  # one covariance for all components
    axis_aligned: ClassVar[bool] = False  # scales are standard deviations, as scatters are formed
    whitens_by_solve: ClassVar[bool] = True  # `whiten` solves with `scale_tril`
    feature_class: ClassVar[type[Features] | None] = None  # what `features` returns
    has_rounding_floor: ClassVar[bool] = True  # products of features leave noise in eigenvalues

    def __post_init__(self) -> None:
        for field in ("reg_covar", "relative_floor"):
            require_number(f"{field} of the covariance", getattr(self, field), least=0)

    # -- parametrisation --------------------------------------------------------------------

    @abstractmethod
    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        """Shape `(G, ...)` of `scale` and of its unconstrained parameter."""

    @abstractmethod
    def scale(self, raw: Tensor) -> Tensor:
        """Scale of an unconstrained parameter; zeros become the identity covariance."""

    @abstractmethod
    def raw(self, scale: Tensor) -> Tensor:
        """Unconstrained parameter of a scale, the inverse of `scale`."""

    @abstractmethod
    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        """Number of free parameters in all covariances together."""

    def groups(self, num_components: int) -> int:
        """Number of distinct covariances, G."""
        return 1 if self.tied else num_components

    def rescale(self, scale: Tensor, factor: float, num_features: int) -> Tensor:
        """Scale of the covariance `factor^2 Sigma`; the default is for scales made of lengths."""
        return scale * factor

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor | None:
        """Mask `(G, ...)` of the raw entries that are logarithms of standard deviations.

        `DensityHead` shifts and bounds these, and refuses a family that returns None.
        """
        return None

    def raw_entry_scales(self, unit: Tensor, num_components: int) -> Tensor:
        """Factors `(*B, G, ...)` of the raw entries when the features are multiplied by `unit`.

        1 for logarithms, which are shifted; by the default, steps do not adapt to units `(*B, D)`.
        """
        return unit.new_ones(*unit.shape[:-1], *self.shape(num_components, unit.shape[-1]))

    # -- density ----------------------------------------------------------------------------

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        """Dense lower Cholesky factors `(*B, G, D, D)`."""
        return scale

    def inverse_tril(self, scale: Tensor, num_features: int) -> Tensor | None:
        """Dense inverse factors `(*B, G, D, D)` of a family that stores these, else None."""
        return None

    def covariance_matrix(self, scale: Tensor, num_features: int) -> Tensor:
        """Dense covariances `(*B, G, D, D)`."""
        factor = self.scale_tril(scale, num_features)
        return factor @ factor.mT

    def whiten(self, scale: Tensor, diff: Tensor) -> Tensor:
        """Whitened differences `L^-1 d`, `(*S, *B, K, D)`, for differences of that shape."""
        return solve_rows(self.scale_tril(scale, diff.shape[-1]), diff)

    def unwhiten(self, scale: Tensor, noise: Tensor) -> Tensor:
        """Products `L z`, `(*R, D)`, of one factor per row, scale `(*R, ...)`, noise `(*R, D)`."""
        factor = self.scale_tril(scale, noise.shape[-1])
        return (factor @ noise.unsqueeze(-1)).squeeze(-1)

    def half_log_det(self, scale: Tensor, num_features: int) -> Tensor:
        """Half log determinants `log|Sigma| / 2`, `(*B, G)`."""
        factor = self.scale_tril(scale, num_features)
        return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def trace_precision_product(
        self, scale: Tensor, projected: Tensor, num_features: int
    ) -> Tensor:
        """Traces `tr(P Sigma^-1)`, `(*B, G)`, for P in the form that `project` returns."""
        factor = self.scale_tril(scale, num_features)
        half = torch.linalg.solve_triangular(factor, projected.expand_as(factor), upper=False)
        other = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        return other.diagonal(dim1=-2, dim2=-1).sum(-1)

    def marginal(self, scale: Tensor, kept: Tensor, num_features: int) -> Tensor:
        """Scale of the features `kept` alone, in their order, `(*B, G, ...)`."""
        return factor_of_rows(self.scale_tril(scale, num_features)[..., kept, :])

    def condition(
        self, scale: Tensor, given: Tensor, rest: Tensor, num_features: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Conditional distribution of the features `rest`, given the others.

        With the factor `((L_gg, 0), (L_rg, L_rr))` in the order (given, rest), the conditional
        mean has the slope `L_rg L_gg^-1`, and the conditional covariance is `L_rr L_rr'`.

        Returns:
            The marginal scale of the given features, the conditional scale of the rest, and the
            slope `(*B, G, R, I)`, or None where the rest does not depend on them.
        """
        order = torch.cat([given, rest])
        factor = factor_of_rows(self.scale_tril(scale, num_features)[..., order, :])
        known, across = factor[..., : len(given), : len(given)], factor[..., len(given) :, :]
        across, unknown = across[..., : len(given)], across[..., len(given) :]
        slope = torch.linalg.solve_triangular(known, across, upper=False, left=False)
        return known, unknown, slope

    # -- statistics -------------------------------------------------------------------------

    @abstractmethod
    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        """Scale of the covariance that maximises `-(dof log|S| + tr(scatter S^-1)) / 2`.

        For a singular scatter the result is arbitrary, but its raw parameter is not finite.
        """

    def features(self, num_features: int) -> Features | None:
        """Second-order terms, with which EM is two matrix products; None if the family has none."""
        kind = self.feature_class
        return None if kind is None else make_features(kind, num_features, tied=self.tied)

    def sum_tied(self, per_component: Tensor) -> Tensor:
        """Sums `(*B, G)` over the components that share a covariance, of values `(*B, K)`."""
        return per_component.sum(-1, keepdim=True) if self.tied else per_component

    def outer(self, weights: Tensor, diff: Tensor) -> Tensor:
        """Weighted scatter `sum_n w_nk d_nk d_nk'` in the family's form.

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
        """Dense matrices `(..., D, D)` in the form of the family's scatter, `(..., *form)`."""
        return matrix

    def variances(self, scatter: Tensor, num_features: int) -> Tensor:
        """Diagonal of a scatter, `(*B, G, D)`."""
        return scatter.diagonal(dim1=-2, dim2=-1)

    # -- floor ------------------------------------------------------------------------------

    def variance_floor(
        self,
        scatter: Tensor,
        dof: Tensor,
        unit: Tensor,
        eps: float,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Smallest variance per feature that a covariance may have, `(*B, G, D)`.

        The larger of `relative_floor` times the squared local scale, and of what rounding leaves
        of the variance of the component. As the second changes with the component, it is lowered,
        to a sixteenth at most, until the present covariance satisfies it: so EM stays monotone.

        Args:
            scatter: `(*B, G, ...)` in the family's form.
            dof: divisor of the scatter, `(*B, G)`.
            unit: squared length per feature, `(*B, D)`.
            eps: machine precision of the parameters.
            scale: the present covariances; None: the bound is not lowered.
        """
        share = self._unless_regularized(self.relative_floor) * unit.unsqueeze(-2)
        if not self.has_rounding_floor:
            return share
        own = self.variances(scatter, unit.shape[-1]) / dof.unsqueeze(-1)
        own = self._unless_regularized(_rounding_share(eps)) * own.clamp(min=0)
        if scale is None:
            return torch.maximum(share, own)
        return satisfied_bound(share, own, self.scale_tril(scale.to(own), own.shape[-1]))

    def noise_at_floor(self, num_features: int, eps: float) -> float:
        """Nats of a log density that rounding hides at the floor: about `D eps / 4 f`.

        An eigenvalue at a share f of the variances is known to `eps / f` of itself in float64.
        """
        hidden = num_features * torch.finfo(torch.float64).eps / (4 * _rounding_share(eps))
        return hidden if self.has_rounding_floor and self.reg_covar == 0 else 0.0

    def _unless_regularized(self, least: float) -> float:
        """A floor; with `reg_covar` at most 1e-14, so that results are those of scikit-learn."""
        return min(least, 1e-14) if self.reg_covar > 0 else least

    def is_below(self, scatter: Tensor, dof: Tensor, bound: Tensor) -> Tensor:
        """Whether `scatter / dof - diag(bound)`, as of `floor`, is not positive definite."""
        return is_below_one(in_units(scatter, dof, bound)[0])

    def floor(self, scatter: Tensor, dof: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Scatter raised so that `scatter / dof - diag(bound)` is positive semidefinite.

        Eigenvalues below one, after scaling by `bound`, become one: the maximum of the
        likelihood under that constraint. What satisfies it (`is_below`) stays as it is.

        Shape:
            scatter `(*B, G, ...)` in the family's form, dof `(*B, G)`, bound `(*B, G or 1, D)` ->
            scatter, and the smallest eigenvalues in units of the bound, infinite where the
            constraint holds, `(*B, G)`.
        """
        low = self.is_below(scatter, dof, bound)
        smallest = torch.full_like(dof, float("inf"))
        if low.any():
            bound = bound.expand(*dof.shape, bound.shape[-1])
            raised, smallest[low] = self.raise_to(scatter[low], dof[low], bound[low])
            scatter = scatter.clone()
            scatter[low] = raised
        return scatter, smallest

    def raise_to(self, scatter: Tensor, dof: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """`floor` of covariances that are known to be below it: of `(G, ...)`, without a batch."""
        scaled, unit = in_units(scatter, dof, bound)
        raised, smallest = raise_to_one(scaled)
        raised.mul_(unit.unsqueeze(-1)).mul_(unit.unsqueeze(-2))
        return raised, torch.where(smallest < 1, smallest, float("inf"))

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _rounding_share(eps: float) -> float:
    return max(_ROUNDING * eps, _LEAST)

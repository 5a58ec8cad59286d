"""An inverse-Wishart prior on the covariances, whatever their structure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_choice
from gmm_lightning.covariances import Covariance, InverseWishartForm, conjugate_form
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.priors.base import Prior
from gmm_lightning.priors.data_moments import DataMoments
from gmm_lightning.statistics import Moments


@dataclass(frozen=True)
class Convention:
    """Where hyper-parameters come from that are not given, and what is estimated.

    Attributes:
        uses_target: from the most likely of left-out rows; else from the data's covariance.
        mean_precision: kappa of the means.
        estimates_mode: the mode of the posterior; else the inverse of its expected precision.
    """

    uses_target: bool
    mean_precision: float
    estimates_mode: bool = True

    def added_dof(self, num_features: int) -> int:
        """What is added to the degrees of freedom of the prior in the estimate's divisor."""
        return num_features + 1 if self.estimates_mode else 0


CONVENTIONS = {
    "held_out": Convention(uses_target=True, mean_precision=1e-4),
    "fraley_raftery": Convention(uses_target=False, mean_precision=0.01),
    "expected_precision": Convention(uses_target=False, mean_precision=0.01, estimates_mode=False),
}


class InverseWishart(Prior):
    """Prior `-2 log p(Sigma) = (df + D + 1) log|Sigma| + tr(Psi Sigma^-1) + const`.

    It counts once per distinct covariance, so a tied family has one. A structured family is
    evaluated on its own structure: diagonal families use the diagonal of Psi, spherical ones
    the mean of the diagonal.

    Args:
        df: degrees of freedom nu; at most `D - 1` the prior is improper, though its mode is not.
            None: what the strength of the target leaves, or `D + 2` for a given scale matrix.
        scale_matrix: Psi, `(D, D)` or anything that broadcasts to `(*B, G, D, D)`, positive
            definite; None: the target times the rows that it is worth, so that the mode of a
            covariance lies between the data's and the target.
        convention: where the target and its strength come from: `held_out` (the most likely of
            left-out rows: see `covariance_target`), or `fraley_raftery` (the covariance of the
            data divided by `K^(2 / D)` as the scale matrix, with `D + 2` degrees of freedom).
            `expected_precision` has the values of the latter, but estimates `(Psi + S) / (df + n)`,
            the inverse of the posterior's expected precision, as tgmm and scikit-learn's
            variational mixture do: the mode of the density per `|Sigma|^-(D + 1) / 2 dSigma`, in
            which `D + 1` above is 0.

    Raises:
        InvalidArgumentError: too few degrees of freedom, or Psi not positive definite.

    References:
        C. Fraley and A. E. Raftery (2007), Bayesian regularization for normal mixture
        estimation and model-based clustering, Journal of Classification 24.

    Example:
        >>> InverseWishart(df=4.0, scale_matrix=[[1.0, 0.0], [0.0, 1.0]]).config()["df"]
        4.0
    """

    name: ClassVar[str] = "inverse_wishart"
    aliases: ClassVar[tuple[str, ...]] = ("iw",)
    slot: ClassVar[str] = "covariances"
    regularizes_covariances: ClassVar[bool] = True
    df: Tensor
    scale_matrix: Tensor

    def __init__(
        self,
        df: Hyperparameter = None,
        scale_matrix: Hyperparameter = None,
        convention: str = "held_out",
    ) -> None:
        super().__init__(df=df, scale_matrix=scale_matrix)
        self.convention = require_choice("convention", convention, CONVENTIONS)
        psi = self._given["scale_matrix"]
        if psi is not None:
            square = psi.dim() >= 2 and psi.shape[-1] == psi.shape[-2]
            if not square or value_of(torch.isclose(psi, psi.mT).all()) is False:
                raise InvalidArgumentError(
                    f"scale_matrix must be a symmetric (D, D) matrix, got shape {tuple(psi.shape)}"
                )
            smallest = value_of(torch.linalg.eigvalsh(psi).min())
            if smallest is not None and not smallest > 0:
                raise InvalidArgumentError(
                    "scale_matrix must be positive definite (smallest eigenvalue > 0), got "
                    f"smallest eigenvalue {smallest:.3g}"
                )
            self._require_df(psi.shape[-1])

    def _require_df(self, num_features: int) -> None:
        least = -CONVENTIONS[self.convention].added_dof(num_features)
        bound = f"-(num_features + 1) = {least}" if least else "0"
        self._require_above("df", least, f"finite and > {bound}")

    def bind(self, shape: MixtureShape) -> None:
        d = shape.num_features
        self._require_df(d)
        is_given = self._given["scale_matrix"] is not None
        self._register("df", shape.groups, default=d + 2.0 if is_given else math.nan)
        self._register("scale_matrix", (*shape.groups, d, d), change=shape.covariance.project)

    @property
    def uses_target(self) -> bool:
        return CONVENTIONS[self.convention].uses_target and self._given["scale_matrix"] is None

    def resolve(self, data: DataMoments, num_components: int) -> None:
        self.resolve_beside(data, num_components, 0.0)

    def resolve_beside(self, data: DataMoments, num_components: int, dof: float) -> None:
        """`resolve`, where another prior adds degrees of freedom to each covariance."""
        if self._given["scale_matrix"] is not None:
            return
        d, df = data.mean.shape[-1], self._given["df"]
        pooled = data.covariance / num_components ** (2 / d)
        if not self.uses_target:
            self._set_default("df", pooled.new_tensor(d + 2.0))
            self._set_default("scale_matrix", pooled)
            return
        target = pooled if data.target is None else data.target
        if df is None:
            rows = pooled.new_ones(()) if data.strength is None else data.strength
        else:
            rows = df.to(target) + d + 1 + dof
        self._set_default("df", rows - d - 1 - dof)
        self._set_default("scale_matrix", unsqueeze_like(rows, target) * target)

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        self.require_resolved()
        family, scale, d = mixture.covariance, mixture.scale, mixture.num_features
        dof = self.df + CONVENTIONS[self.convention].added_dof(d)
        log_det = dof * family.half_log_det(scale, d)
        trace = family.trace_precision_product(scale, self.scale_matrix, d)
        return -(log_det + 0.5 * trace).sum(-1)

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        self.require_resolved()
        added = CONVENTIONS[self.convention].added_dof(moments.means.shape[-1])
        return replace(
            moments,
            scatter=moments.scatter + self.scale_matrix.to(moments.scatter),
            dof=moments.dof + self.df.to(moments.dof) + added,
        )

    def natural_df(self, form: InverseWishartForm) -> Tensor:
        """Degrees of freedom of the distribution in the form of a family, `(*B, G)`."""
        convention = CONVENTIONS[self.convention]
        if not convention.estimates_mode:
            return self.df
        return self.df + convention.added_dof(form.num_features) - form.mode_dof

    @property
    def _form(self) -> InverseWishartForm:
        """The conjugate distributions of the family that a layer has bound the prior to."""
        return conjugate_form(self.bound.covariance, self.bound.num_features)

    @property
    def is_proper(self) -> bool:
        return bool((self.natural_df(self._form) > self._form.least_df).all())

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        df = self.natural_df(self._form).double().expand(draws, *self.df.shape)
        psi = self.scale_matrix.double().expand(draws, *self.scale_matrix.shape)
        return {"scale": self._form.sample_scale(df, psi, generator).to(self.scale_matrix)}

    def config(self) -> dict[str, Any]:
        return super().config() | {"convention": self.convention}

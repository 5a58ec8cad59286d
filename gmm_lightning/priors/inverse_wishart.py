"""An inverse-Wishart prior on the covariances, whatever their structure."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors.base import Hyperparameter, MixtureShape, Prior
from gmm_lightning.statistics import DataMoments, Moments


class InverseWishart(Prior):
    """Prior `-2 log p(Sigma) = (df + D + 1) log|Sigma| + tr(Psi Sigma^-1) + const`.

    It counts once per distinct covariance, so a tied family has one. A structured family is
    evaluated on its own structure: diagonal families use the diagonal of Psi, spherical ones
    the mean of the diagonal.

    Args:
        df: degrees of freedom nu, greater than `D - 1`; None: `D + 2`.
        scale_matrix: Psi, `(D, D)` or anything that broadcasts to `(*B, G, D, D)`, positive
            definite; None: the data's covariance divided by `K^(2 / D)`.

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
    df: Tensor
    scale_matrix: Tensor

    def __init__(self, df: Hyperparameter = None, scale_matrix: Hyperparameter = None) -> None:
        super().__init__(df=df, scale_matrix=scale_matrix)
        psi = self._given["scale_matrix"]
        if psi is not None:
            square = psi.dim() >= 2 and psi.shape[-1] == psi.shape[-2]
            if not square or not torch.allclose(psi, psi.mT):
                raise InvalidArgumentError(
                    f"scale_matrix must be a symmetric (D, D) matrix, got shape {tuple(psi.shape)}"
                )
            smallest = float(torch.linalg.eigvalsh(psi).min())
            if not smallest > 0:
                raise InvalidArgumentError(
                    "scale_matrix must be positive definite (smallest eigenvalue > 0), got "
                    f"smallest eigenvalue {smallest:.3g}"
                )
            self._require_df(psi.shape[-1] - 1)

    def _require_df(self, least: int) -> None:
        self._require_above("df", least, f"finite and > num_features - 1 = {least}")

    def bind(self, shape: MixtureShape) -> None:
        d = shape.num_features
        self._require_df(d - 1)
        self._register("df", shape.groups, default=d + 2.0)
        self._register("scale_matrix", (*shape.groups, d, d), family=shape.covariance)

    def resolve(self, data: DataMoments, num_components: int) -> None:
        num_features = data.mean.shape[-1]
        self._set_default("scale_matrix", data.covariance / num_components ** (2 / num_features))

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        self.require_resolved()
        family, scale, d = mixture.covariance, mixture.scale, mixture.num_features
        log_det = (self.df + d + 1) * family.half_log_det(scale, d)
        trace = family.trace_precision_product(scale, self.scale_matrix, d)
        return -(log_det + 0.5 * trace).sum(-1)

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        self.require_resolved()
        num_features = moments.means.shape[-1]
        return replace(
            moments,
            scatter=moments.scatter + self.scale_matrix.to(moments.scatter),
            dof=moments.dof + self.df.to(moments.dof) + num_features + 1,
        )

"""The conjugate prior on means and covariances together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors.base import Prior
from gmm_lightning.priors.data_moments import DataMoments
from gmm_lightning.priors.inverse_wishart import CONVENTIONS, InverseWishart
from gmm_lightning.priors.normal import NormalMeans
from gmm_lightning.statistics import Moments


class NormalInverseWishart(Prior):
    """Conjugate prior `Sigma_k ~ IW(df, Psi)` and `mu_k | Sigma_k ~ N(loc, Sigma_k / kappa)`.

    The product of `NormalMeans` and `InverseWishart`; for a family that is not tied,

        -2 log p = (df + D + 2) log|Sigma| + tr(Psi Sigma^-1)
                   + kappa (mu - loc)' Sigma^-1 (mu - loc) + const

    Args:
        loc: centre of the means; None: as for `NormalMeans`, the data's mean in the convention of
            Fraley and Raftery.
        mean_precision: kappa, in units of rows; None: 1e-4, or 0.01 in that convention.
        df: degrees of freedom: see `InverseWishart`.
        scale_matrix: Psi, positive definite: see `InverseWishart`.
        convention: `held_out`, `fraley_raftery` or `expected_precision`: see `InverseWishart`. With
            the last one covariances are `Psi_n / (df + n)`, without the means' degree of freedom.

    Raises:
        InvalidArgumentError: a value outside its range.

    References:
        C. Fraley and A. E. Raftery (2007), Bayesian regularization for normal mixture
        estimation and model-based clustering, Journal of Classification 24.

    Example:
        >>> NormalInverseWishart(df=5.0).config()["df"]
        5.0
    """

    name: ClassVar[str] = "niw"
    aliases: ClassVar[tuple[str, ...]] = ("normal_inverse_wishart",)
    slot: ClassVar[str] = "components"
    regularizes_covariances: ClassVar[bool] = True

    def __init__(
        self,
        loc: Hyperparameter = None,
        mean_precision: Hyperparameter = None,
        df: Hyperparameter = None,
        scale_matrix: Hyperparameter = None,
        convention: str = "held_out",
    ) -> None:
        super().__init__()
        self.on_covariances = InverseWishart(df, scale_matrix, convention)
        self.on_means = NormalMeans(loc, mean_precision)
        self.on_means.default_precision = CONVENTIONS[convention].mean_precision
        self.on_means.dof = float(CONVENTIONS[convention].estimates_mode)

    @property
    def loc(self) -> Tensor:
        """Centre of the means, `(*B, K, D)`."""
        return self.on_means.loc

    @property
    def mean_precision(self) -> Tensor:
        """Precision kappa of the centre, in units of rows, `(*B, K)`."""
        return self.on_means.mean_precision

    @property
    def df(self) -> Tensor:
        """Degrees of freedom, `(*B, G)`."""
        return self.on_covariances.df

    @property
    def scale_matrix(self) -> Tensor:
        """Psi in the covariance family's form, `(*B, G, ...)`."""
        return self.on_covariances.scale_matrix

    @property
    def uses_target(self) -> bool:
        return self.on_covariances.uses_target

    def bind(self, shape: MixtureShape) -> None:
        self.on_means.bind(shape)
        self.on_covariances.bind(shape)

    def resolve(self, data: DataMoments, num_components: int) -> None:
        convention = CONVENTIONS[self.on_covariances.convention]
        centred = data if convention.uses_target else replace(data, center=None)
        self.on_means.resolve(centred, num_components)
        # The prior on the means adds its degree of freedom for each component.
        per_covariance = self.on_means.mean_precision.shape[-1] / self.df.shape[-1]
        per_covariance *= self.on_means.dof
        self.on_covariances.resolve_beside(data, num_components, per_covariance)

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        self.require_resolved()
        return self.on_means.log_prob(mixture) + self.on_covariances.log_prob(mixture)

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        moments = self.on_means.update(moments, covariance)
        return self.on_covariances.update(moments, covariance)

    @property
    def is_proper(self) -> bool:
        # Without the means' degree of freedom the integral over them changes that of covariances.
        return bool(self.on_means.dof) and self.on_covariances.is_proper

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        drawn = self.on_covariances.sample(draws, generator)
        return drawn | self.on_means.sample(draws, generator, drawn["scale"])

    def config(self) -> dict[str, Any]:
        return self.on_means.config() | self.on_covariances.config()

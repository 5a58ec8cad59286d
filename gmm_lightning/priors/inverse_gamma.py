"""An inverse-gamma prior on the variances."""

from __future__ import annotations

from typing import ClassVar

from torch import Generator, Tensor

from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors._drawing import gamma
from gmm_lightning.priors._scales import ScalePrior, deviations_shape
from gmm_lightning.priors.data_moments import DataMoments


class InverseGamma(ScalePrior):
    """Inverse-gamma prior on the variances of the features of each covariance, `v = sigma^2`.

        log p(v) = a log b - log Gamma(a) - (a + 1) log v - b / v

    The density is that of the variance, not of the standard deviation. It counts once per distinct
    variance, as `HalfCauchy` does. It is fitted by gradients with every family.

    Args:
        concentration: a, a number, or anything that broadcasts to `(*B, G, D)`, of spherical
            families `(*B, G)`; None: 2.
        scale: b, of the same shape, in squared units of the rows; None: the data's variances. With
            both defaults the data's variance is the mean of the prior, and a third of it its mode.

    Raises:
        InvalidArgumentError: a value that is not positive.

    References:
        A. Gelman et al. (2013), Bayesian Data Analysis, section 2.6.

    Example:
        >>> InverseGamma(concentration=3.0, scale=2.0)
        InverseGamma(concentration=3.0, scale=2.0)
    """

    name: ClassVar[str] = "inverse_gamma"
    concentration: Tensor
    scale: Tensor

    def __init__(self, concentration: Hyperparameter = None, scale: Hyperparameter = None) -> None:
        super().__init__(concentration=concentration, scale=scale)
        self._require_above("concentration", 0, "> 0 and finite")
        self._require_above("scale", 0, "> 0 and finite")

    def bind(self, shape: MixtureShape) -> None:
        self._register("concentration", deviations_shape(shape), default=2.0)
        self._register("scale", deviations_shape(shape))

    def resolve(self, data: DataMoments, num_components: int) -> None:
        self._set_default("scale", self._data_variances(data))

    def _log_density(self, deviation: Tensor) -> Tensor:
        a, b = self.concentration, self.scale
        constant = a * b.log() - a.lgamma()
        return constant - 2 * (a + 1) * deviation.log() - b / deviation.square()

    def _draw(self, draws: int, generator: Generator | None) -> Tensor:
        return (self.scale / gamma(self.concentration, draws, generator)).sqrt()

"""A log-normal prior on the standard deviations."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Generator, Tensor

from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.linalg import LOG_2PI
from gmm_lightning.priors._drawing import normal
from gmm_lightning.priors._scales import ScalePrior, deviations_shape
from gmm_lightning.priors.data_moments import DataMoments


class LogNormal(ScalePrior):
    """Log-normal prior on the standard deviations, `log sigma ~ N(loc, scale^2)`.

        log p(sigma) = -log(2 pi) / 2 - log(scale sigma) - ((log sigma - loc) / scale)^2 / 2

    It counts once per distinct standard deviation, as `HalfCauchy` does; unlike that prior, it
    keeps them from 0. It has no closed form for EM.

    Args:
        loc: mean of the logarithm of a standard deviation in the units of the rows: a number, or
            anything that broadcasts to `(*B, G, D)`, of spherical families `(*B, G)`; None: the
            logarithms of the data's standard deviations.
        scale: standard deviation of the logarithm, of the same shape; None: 1.

    Raises:
        InvalidArgumentError: a centre that is not finite, or a scale that is not positive.

    References:
        A. Gelman et al. (2013), Bayesian Data Analysis, appendix A.

    Example:
        >>> LogNormal(loc=0.0, scale=0.5)
        LogNormal(loc=0.0, scale=0.5)
    """

    name: ClassVar[str] = "log_normal"
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Hyperparameter = None, scale: Hyperparameter = None) -> None:
        super().__init__(loc=loc, scale=scale)
        self._require_above("loc", -math.inf, "finite")
        self._require_above("scale", 0, "> 0 and finite")

    def bind(self, shape: MixtureShape) -> None:
        self._register("loc", deviations_shape(shape))
        self._register("scale", deviations_shape(shape), default=1.0)

    def resolve(self, data: DataMoments, num_components: int) -> None:
        self._set_default("loc", 0.5 * self._data_variances(data).log())

    def _log_density(self, deviation: Tensor) -> Tensor:
        log_deviation = deviation.log()
        z = (log_deviation - self.loc) / self.scale
        return -0.5 * LOG_2PI - self.scale.log() - log_deviation - 0.5 * z.square()

    def _draw(self, draws: int, generator: Generator | None) -> Tensor:
        noise = normal((draws, *self.scale.shape), self.scale, generator)
        return (self.loc + self.scale * noise).exp()

"""A half-normal prior on the standard deviations."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Generator, Tensor

from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors._drawing import normal
from gmm_lightning.priors._scales import ScalePrior, deviations_shape
from gmm_lightning.priors.data_moments import DataMoments


class HalfNormal(ScalePrior):
    """Half-normal prior on the standard deviations of the features of each covariance.

        log p(sigma) = log(2 / pi) / 2 - log s - (sigma / s)^2 / 2

    It counts once per distinct standard deviation, as `HalfCauchy` does, and has lighter tails. It
    has no closed form for EM.

    Args:
        scale: s, in the units of the rows: a number, or anything that broadcasts to `(*B, G, D)`,
            of spherical families `(*B, G)`; None: the data's standard deviations.

    Raises:
        InvalidArgumentError: a scale that is not positive.

    References:
        A. Gelman (2006), Prior distributions for variance parameters in hierarchical models,
        Bayesian Analysis 1.

    Example:
        >>> HalfNormal(scale=2.0)
        HalfNormal(scale=2.0)
    """

    name: ClassVar[str] = "half_normal"
    scale: Tensor

    def __init__(self, scale: Hyperparameter = None) -> None:
        super().__init__(scale=scale)
        self._require_above("scale", 0, "> 0 and finite")

    def bind(self, shape: MixtureShape) -> None:
        self._register("scale", deviations_shape(shape))

    def resolve(self, data: DataMoments, num_components: int) -> None:
        self._set_default("scale", self._data_variances(data).sqrt())

    def _log_density(self, deviation: Tensor) -> Tensor:
        ratio = deviation / self.scale
        return 0.5 * math.log(2 / math.pi) - self.scale.log() - 0.5 * ratio.square()

    def _draw(self, draws: int, generator: Generator | None) -> Tensor:
        return self.scale * normal((draws, *self.scale.shape), self.scale, generator).abs()

"""A half-Cauchy prior on the standard deviations."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors._drawing import uniform
from gmm_lightning.priors._scales import ScalePrior, deviations_shape
from gmm_lightning.priors.data_moments import DataMoments


class HalfCauchy(ScalePrior):
    """Half-Cauchy prior on the standard deviations of the features of each covariance.

        log p(sigma) = log(2 / pi) - log s - log(1 + (sigma / s)^2)

    It counts once per distinct standard deviation: K D of them for `full` and `diag`, K for
    `spherical`, D for `tied`. It has no closed form for EM.

    Args:
        scale: s, the median, in the units of the rows: a number, or anything that broadcasts to
            `(*B, G, D)`, of spherical families `(*B, G)`; None: the data's standard deviations.

    Raises:
        InvalidArgumentError: a scale that is not positive.

    References:
        A. Gelman (2006), Prior distributions for variance parameters in hierarchical models,
        Bayesian Analysis 1.

    Example:
        >>> HalfCauchy(scale=2.0)
        HalfCauchy(scale=2.0)
    """

    name: ClassVar[str] = "half_cauchy"
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
        return math.log(2 / math.pi) - self.scale.log() - ratio.square().log1p()

    def _draw(self, draws: int, generator: Generator | None) -> Tensor:
        u = uniform((draws, *self.scale.shape), self.scale, generator)
        return self.scale * torch.tan(0.5 * math.pi * u)

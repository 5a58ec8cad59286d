"""A Dirichlet prior on the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors.base import Prior
from gmm_lightning.statistics import Moments

# Below this weight the density of a sparse prior (concentration < 1) is constant.
_MIN_WEIGHT = 1e-12


class Dirichlet(Prior):
    """Dirichlet prior on the weights, `log p(pi) = sum_k (alpha_k - 1) log pi_k + const`.

    EM adds `alpha_k - 1` rows to component k. For `alpha < 1` a component whose share falls to
    zero is dropped: the weights are renormalised, and the log density is evaluated at
    `max(pi_k, 1e-12)`.

    Args:
        concentration: alpha, a number or one per component; None means 1, a flat prior.

    Raises:
        InvalidArgumentError: a concentration that is not positive.

    References:
        C. M. Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.

    Example:
        >>> Dirichlet(concentration=2.0)
        Dirichlet(concentration=2.0)
    """

    name: ClassVar[str] = "dirichlet"
    slot: ClassVar[str] = "weights"
    concentration: Tensor

    def __init__(self, concentration: Hyperparameter = None) -> None:
        super().__init__(concentration=concentration)
        self._require_above("concentration", 0, "> 0 and finite")

    def bind(self, shape: MixtureShape) -> None:
        self._register("concentration", shape.weights, default=1.0)

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        log_weights = mixture.log_weights
        least = torch.full_like(log_weights, _MIN_WEIGHT).log()
        sparse = self.concentration < 1
        log_weights = torch.where(sparse, torch.maximum(log_weights, least), log_weights)
        return ((self.concentration - 1) * log_weights).sum(-1)

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        mass = (moments.mass + self.concentration.to(moments.mass) - 1).clamp(min=0)
        # Without a positive weight the sparse prior has no mode: it is left out.
        mass = torch.where(mass.sum(-1, keepdim=True) > 0, mass, moments.mass)
        return replace(moments, mass=mass)

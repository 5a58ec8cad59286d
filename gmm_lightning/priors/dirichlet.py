"""A Dirichlet prior on the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors._drawing import dirichlet
from gmm_lightning.priors.base import Prior
from gmm_lightning.statistics import Moments

# Below this weight the density of a sparse prior (concentration < 1) is constant.
_MIN_WEIGHT = 1e-12


def floored_log_weights(mixture: MixtureOfGaussians) -> Tensor:
    """Log weights `(*B, K)`, at least that of 1e-12."""
    log_weights = mixture.log_weights
    return torch.maximum(log_weights, torch.full_like(log_weights, _MIN_WEIGHT).log())


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
        sparse = self.concentration < 1
        log_weights = torch.where(sparse, floored_log_weights(mixture), mixture.log_weights)
        return ((self.concentration - 1) * log_weights).sum(-1)

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        mass = (moments.mass + self.concentration.to(moments.mass) - 1).clamp(min=0)
        # Without a positive weight the sparse prior has no mode: it is left out.
        mass = torch.where(mass.sum(-1, keepdim=True) > 0, mass, moments.mass)
        return replace(moments, mass=mass)

    @property
    def has_mode(self) -> bool:
        return bool((self.concentration >= 1).all())

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        return {"weights": dirichlet(self.concentration, draws, generator)}

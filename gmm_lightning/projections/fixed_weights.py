"""Weights that are given."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._tracing import value_of
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.linalg import mixture_logits
from gmm_lightning.projections.base import P, Projection
from gmm_lightning.statistics import Moments

# Weights as people write them, such as 0.333, sum to one within this.
_SUM = 1e-2


class FixedWeights(Projection):
    """Holds the weights at given values, divided by their sum; the M-step is exact.

    Args:
        weights: `(K,)` or anything that broadcasts to `(*B, K)`, not negative, of sum 1; None: all
            the same.

    Raises:
        InvalidArgumentError: anything else.

    Example:
        >>> FixedWeights([0.3, 0.7]).config()
        {'weights': [0.3, 0.7]}
    """

    name: ClassVar[str] = "fixed_weights"
    parts = frozenset({"weights"})
    weights: Tensor

    def __init__(self, weights: Hyperparameter = None) -> None:
        super().__init__(weights=weights)
        given = self._given["weights"]
        if given is None:
            return
        fits = given.dim() > 0 and bool(given.shape[-1])
        if fits and value_of(torch.isfinite(given).all()) is not False:
            fits = value_of((given >= 0).all() & ((given.sum(-1) - 1).abs() <= _SUM).all())
        else:
            fits = False
        if fits is False:
            raise InvalidArgumentError(
                "the fixed weights must be >= 0 and sum to 1, one for each component, got "
                f"{describe(given.tolist())}"
            )

    def bind(self, shape: MixtureShape) -> None:
        self._register("weights", shape.weights, default=1 / shape.num_components)

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        return replace(moments, mass=self.weights.to(moments.mass).expand_as(moments.mass))

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        logits = parameters.mixture_logits
        fixed = mixture_logits(self.weights.double(), logits.dtype)
        return parameters._replace(mixture_logits=fixed.expand_as(logits))

    def num_fixed_parameters(
        self, num_components: int, num_features: int, covariance: Covariance
    ) -> int:
        return num_components - 1

"""The prior of Lewandowski, Kurowicka and Joe on correlations."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors._drawing import correlation_tril
from gmm_lightning.priors.base import Prior


class LKJ(Prior):
    """LKJ prior on the Cholesky factors L of the correlation matrices `R = L L'`.

        log p(L) = sum_{i=2}^D (D - i + 2 (eta - 1)) log L_ii - log Z(eta)

    It is the density of the entries of L below the diagonal, that of `R` being proportional to
    `|R|^(eta - 1)`: eta = 1 is uniform over correlation matrices, larger ones pull to none. It
    counts once per distinct covariance, takes `full` and `tied` covariances, and has no closed form
    for EM. It stands beside a prior on the standard deviations, such as `HalfCauchy`.

    Args:
        concentration: eta, a number, or one per covariance, `(*B, G)`; None: 1.

    Raises:
        InvalidArgumentError: a concentration that is not positive.

    References:
        D. Lewandowski, D. Kurowicka and H. Joe (2009), Generating random correlation matrices
        based on vines and extended onion method, Journal of Multivariate Analysis 100.

    Example:
        >>> LKJ(concentration=2.0)
        LKJ(concentration=2.0)
    """

    name: ClassVar[str] = "lkj"
    slot: ClassVar[str] = "correlations"
    fits: ClassVar[frozenset[str]] = frozenset({"gradient"})
    concentration: Tensor

    def __init__(self, concentration: Hyperparameter = None) -> None:
        super().__init__(concentration=concentration)
        self._require_above("concentration", 0, "> 0 and finite")

    def supports(self, covariance: Covariance) -> bool:
        return not covariance.axis_aligned

    def bind(self, shape: MixtureShape) -> None:
        self._register("concentration", shape.groups, default=1.0)

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        d = mixture.num_features
        factor = mixture.covariance.scale_tril(mixture.scale, d)[..., 1:, :]
        length = torch.linalg.vector_norm(factor, dim=-1)
        log_diagonal = (factor.diagonal(1, -2, -1) / length).log()
        eta = self.concentration
        place = torch.arange(2, d + 1, device=eta.device, dtype=eta.dtype)
        exponent = d - place + 2 * (eta.unsqueeze(-1) - 1)
        return ((exponent * log_diagonal).sum(-1) - self._log_normalizer(d)).sum(-1)

    def _log_normalizer(self, num_features: int) -> Tensor:
        """The logarithm of the integral of the rest of the density, `(*B, G)`.

        Row i + 1 of L is uniform on a ball of i dimensions but for a power of its last entry.
        """
        n = num_features - 1
        i = torch.arange(1, n + 1, device=self.concentration.device, dtype=self.concentration.dtype)
        last = self.concentration.unsqueeze(-1) + 0.5 * (n - i)
        return (0.5 * i * math.log(math.pi) + last.lgamma() - (last + 0.5 * i).lgamma()).sum(-1)

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        d = self.bound.num_features
        return {"correlation_tril": correlation_tril(self.concentration, d, draws, generator)}

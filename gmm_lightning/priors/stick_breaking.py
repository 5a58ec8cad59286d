"""The weights of a truncated Dirichlet process."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors._drawing import uniform
from gmm_lightning.priors.base import Prior
from gmm_lightning.priors.dirichlet import floored_log_weights


class StickBreaking(Prior):
    """Truncated Dirichlet process on the weights: shares of what is left of a stick.

        v_k ~ Beta(1, alpha) for k < K,    pi_k = v_k prod_{j<k} (1 - v_j)

    With `r_k = sum_{j>k} pi_j`, what is left after k, the density of the weights is, the Jacobian
    of v in pi included,

        log p(pi) = (K - 1) log alpha + (alpha - 1) log pi_K - sum_{k=1}^{K-2} log r_k

    The first components are the largest on average. Where a weight is below 1e-12, the density is
    taken there. It has no closed form for EM.

    Args:
        concentration: alpha, a number or one per mixture; None: 1.
        concentration_shape: of a Gamma hyper-prior on alpha, for those that draw alpha, too; the
            density here is that at `concentration`. None: alpha is fixed.
        concentration_rate: of the same.

    Raises:
        InvalidArgumentError: a value that is not positive, or a shape without a rate.

    References:
        H. Ishwaran and L. F. James (2001), Gibbs sampling methods for stick-breaking priors,
        Journal of the American Statistical Association 96.

    Example:
        >>> StickBreaking(concentration=2.0).config()["concentration"]
        2.0
    """

    name: ClassVar[str] = "stick_breaking"
    slot: ClassVar[str] = "weights"
    fits: ClassVar[frozenset[str]] = frozenset({"gradient"})
    concentration: Tensor

    def __init__(
        self,
        concentration: Hyperparameter = None,
        concentration_shape: Hyperparameter = None,
        concentration_rate: Hyperparameter = None,
    ) -> None:
        super().__init__(
            concentration=concentration,
            concentration_shape=concentration_shape,
            concentration_rate=concentration_rate,
        )
        for name in self._given:
            self._require_above(name, 0, "> 0 and finite")
        if (concentration_shape is None) != (concentration_rate is None):
            raise InvalidArgumentError(
                "the hyper-prior of 'stick_breaking' needs concentration_shape and "
                f"concentration_rate, got {concentration_shape} and {concentration_rate}: give both"
            )

    def bind(self, shape: MixtureShape) -> None:
        self._register("concentration", (*shape.batch_shape, 1), default=1.0)

    @property
    def has_mode(self) -> bool:
        # Where the first weight takes all of the stick, K - 2 lengths vanish, and the last weight.
        k = self.bound.num_components
        return k == 1 or bool((self.concentration >= k - 1).all())

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        log_weights = floored_log_weights(mixture)
        left = log_weights.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
        alpha = self.concentration.squeeze(-1)
        free = mixture.num_components - 1
        # r_{K-1} is the last weight.
        last = log_weights[..., -1] * bool(free)
        return free * alpha.log() + (alpha - 1) * last - left[..., :-1].sum(-1)

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        alpha = self.concentration
        free = self.bound.num_components - 1
        # 1 - v is a uniform number to the power 1 / alpha.
        u = uniform((draws, *alpha.shape[:-1], free), alpha, generator)
        log_left = (u.log() / alpha).cumsum(-1)
        one = log_left.new_zeros(*log_left.shape[:-1], 1)
        before = torch.cat([one, log_left], -1).exp()
        after = torch.cat([log_left.exp(), one], -1)
        return {"weights": before - after}

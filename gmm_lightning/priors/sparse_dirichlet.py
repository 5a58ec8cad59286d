"""A symmetric Dirichlet prior whose concentration is shared among the components."""

from __future__ import annotations

from functools import partial
from operator import mul
from typing import ClassVar

from torch import Tensor

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors.dirichlet import Dirichlet


class SparseDirichlet(Dirichlet):
    """Symmetric Dirichlet prior on the weights, of concentration `alpha0 / K` each.

        log p(pi) = log Gamma(alpha0) - K log Gamma(alpha0 / K) + (alpha0 / K - 1) sum_k log pi_k

    With more components than the data need, those to spare have weights near 0. As K grows it
    approaches a Dirichlet process of concentration alpha0. In all else it is as `Dirichlet`.

    Args:
        concentration: alpha0, the sum over the components: a number, or anything that broadcasts
            to `(*B, K)`; None: 1.

    Raises:
        InvalidArgumentError: a concentration that is not positive.

    References:
        J. Rousseau and K. Mengersen (2011), Asymptotic behaviour of the posterior distribution in
        overfitted mixture models, JRSS B 73.

    Example:
        >>> SparseDirichlet(concentration=2.0)
        SparseDirichlet(concentration=2.0)
    """

    name: ClassVar[str] = "sparse_dirichlet"

    def __init__(self, concentration: Hyperparameter = None) -> None:
        super().__init__(concentration)

    def bind(self, shape: MixtureShape) -> None:
        share = partial(mul, 1 / shape.num_components)
        self._register("concentration", shape.weights, default=1.0, change=share)

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        alpha = self.concentration
        constant = alpha.sum(-1).lgamma() - alpha.lgamma().sum(-1)
        return super().log_prob(mixture) + constant

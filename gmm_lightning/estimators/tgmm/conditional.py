"""The mixture of some features, given others, in tgmm's terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError

M = TypeVar("M")


class ConditionalGaussianMixture(Generic[M]):
    """Mixtures of the missing features, one for each row of observed ones: see `condition`.

    Attributes:
        weights_: `(n, K)`.
        means_: `(n, K, D_m)`.
        covariances_: `(K, D_m, D_m)`, the same for all rows.
        obs_dims: positions of the observed features.
        missing_dims: positions of the others, in order.
    """

    def __init__(
        self,
        mixture: MixtureOfGaussians,
        obs_dims: Sequence[int],
        missing_dims: Sequence[int],
        as_model: Callable[[MixtureOfGaussians], M],
    ) -> None:
        self._mixture, self._as_model = mixture, as_model
        self.obs_dims, self.missing_dims = list(obs_dims), list(missing_dims)
        self.weights_, self.means_ = mixture.weights, mixture.means
        self.covariances_ = mixture.component_covariances[0]
        self.n_samples, self.n_components, self.n_features = self.means_.shape
        self.device, self.dtype = self.means_.device, self.means_.dtype

    def mean(self) -> Tensor:
        """Conditional means, `(n, D_m)`: regression."""
        return self._mixture.mean

    def log_prob(self, Y: Any) -> Tensor:
        """Log densities of rows `(n, D_m)`, each given its own observed features.

        With one row of observed features, of any number of rows.

        Raises:
            InvalidArgumentError: another shape.
        """
        y = torch.as_tensor(Y).to(self.means_)
        fits = y.dim() == 2 and y.shape[1] == self.n_features
        if not fits or self.n_samples not in (1, len(y)):
            rows = "n" if self.n_samples == 1 else self.n_samples
            raise InvalidArgumentError(
                f"Y must have shape ({rows}, {self.n_features}), got {tuple(y.shape)}"
            )
        if self.n_samples == 1:
            return self._mixture.log_prob(y.unsqueeze(1)).squeeze(1)
        return self._mixture.log_prob(y)

    def sample(self, n_draws: int = 1) -> Tensor:
        """Draws `(n, n_draws, D_m)`."""
        drawn = self._mixture.sample(require_integer("n_draws", n_draws, least=0))
        assert isinstance(drawn, Tensor)
        return drawn.movedim(0, 1)

    def as_gmm(self, i: int) -> M:
        """The mixture given row i, as a fitted mixture of full covariances.

        Raises:
            InvalidArgumentError: there is no such row.
        """
        n = self.n_samples
        if not (isinstance(i, int) and -n <= i < n):
            raise InvalidArgumentError(f"row must be in [{-n}, {n}), got {i}")
        own = self._mixture
        factor = torch.linalg.cholesky(self.covariances_)
        return self._as_model(
            MixtureOfGaussians(own.mixture_logits[i], self.means_[i], factor, "full")
        )

    def __repr__(self) -> str:
        return (
            f"ConditionalGaussianMixture(n_samples={self.n_samples}, "
            f"n_components={self.n_components}, obs_dims={self.obs_dims})"
        )

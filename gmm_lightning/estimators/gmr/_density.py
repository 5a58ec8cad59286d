"""Density and samples, which `MVN` and `GMM` share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from gmm_lightning.distributions import Confidence, MixtureOfGaussians, in_confidence_region
from gmm_lightning.estimators.gmr._translate import Converted, Floats, generator_of, rows_of
from gmm_lightning.estimators.gmr.utils import check_random_state


class Density(ABC):
    """Base of the classes with a density."""

    random_state: Converted = Converted(check_random_state)

    @abstractmethod
    def _mixture(self, *, definite: bool = True) -> MixtureOfGaussians:
        """Mixture of the parameters, which may be singular unless it has to be definite."""

    def to_probability_density(self, X: ArrayLike) -> Floats:
        """Densities of rows, `(n_samples,)`."""
        return np.exp(self.to_log_probability_density(X))

    def to_log_probability_density(self, X: ArrayLike) -> Floats:
        """Log densities of rows, finite also for distant ones (gmr: their densities become 0)."""
        mixture = self._mixture()
        return mixture.log_prob(rows_of(X, mixture.num_features)).numpy()

    def is_in_confidence_region(self, x: ArrayLike, alpha: float) -> Any:
        """Whether x is in the region of mass alpha of the closest component.

        A bool for one row, an array for several. The radius has as many degrees of freedom as
        features (gmr: one less, and in 1-D the variance instead of the standard deviation).
        """
        mixture = self._mixture()
        inside = in_confidence_region(mixture, rows_of(x, mixture.num_features), alpha).numpy()
        return inside if np.ndim(x) == 2 else bool(inside[0])

    def sample(self, n_samples: int) -> Floats:
        """Samples `(n_samples, n_features)`, ordered by component."""
        return self._sample(n_samples, None)

    def sample_confidence_region(self, n_samples: int, alpha: float) -> Floats:
        """Samples from the regions of mass alpha of their components, without rejections.

        Raises:
            InvalidArgumentError: alpha outside (0, 1].
        """
        return self._sample(n_samples, Confidence(0.0, alpha))

    def _sample(self, n_samples: int, within: Confidence | None) -> Floats:
        x, component = self._mixture(definite=False).sample(
            n_samples,
            within=within,
            return_component=True,
            generator=generator_of(self.random_state),
        )
        assert isinstance(x, torch.Tensor)
        return x[component.argsort(stable=True)].numpy()

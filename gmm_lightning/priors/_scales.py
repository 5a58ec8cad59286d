"""What the priors on the standard deviations, or variances, of features have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.priors.base import Prior
from gmm_lightning.priors.data_moments import DataMoments


def deviations_shape(shape: MixtureShape) -> tuple[int, ...]:
    """Shape of the distinct standard deviations of a family, `(*B, G, D)`; spherical: `(*B, G)`.

    Example:
        >>> from gmm_lightning.covariances import as_covariance
        >>> deviations_shape(MixtureShape(3, 2, as_covariance("tied")))
        (1, 2)
    """
    family, d = shape.covariance, shape.num_features
    if family.axis_aligned:
        return (*shape.batch_shape, *family.shape(shape.num_components, d))
    return (*shape.groups, d)


def standard_deviations(family: Covariance, scale: Tensor, num_features: int) -> Tensor:
    """The distinct standard deviations of features, `(*B, G, D)`; of spherical families `(*B, G)`.

    Example:
        >>> from gmm_lightning.covariances import as_covariance
        >>> factor = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
        >>> standard_deviations(as_covariance("full"), factor, 2)
        tensor([[1., 5.]])
    """
    if family.axis_aligned:
        return scale
    return torch.linalg.vector_norm(family.scale_tril(scale, num_features), dim=-1)


class ScalePrior(Prior):
    """A prior with one factor for each distinct standard deviation of a feature."""

    slot: ClassVar[str] = "scales"
    fits: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        self.require_resolved()
        family, num_features = mixture.covariance, mixture.num_features
        each = self._log_density(standard_deviations(family, mixture.scale, num_features))
        return each.sum(-1) if each.dim() == mixture.means.dim() - 1 else each.sum((-2, -1))

    @abstractmethod
    def _log_density(self, deviation: Tensor) -> Tensor:
        """Log densities of standard deviations, entry by entry."""

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        return {"standard_deviations": self._draw(draws, generator)}

    @abstractmethod
    def _draw(self, draws: int, generator: Generator | None) -> Tensor:
        """Standard deviations `(draws, *B, G, D)`, of spherical families `(draws, *B, G)`."""

    def _data_variances(self, data: DataMoments) -> Tensor:
        """The data's variances in the form of the standard deviations, of one component.

        A constant feature has none: 1 stands for it.
        """
        variance = data.covariance
        if not self.bound.covariance.axis_aligned:
            variance = variance.diagonal(dim1=-2, dim2=-1)
        offset = data.mean.unsqueeze(-2)
        offset = offset if variance.dim() == offset.dim() else offset.abs().amax(-1)
        rounding = (4 * torch.finfo(self._dtype).eps * offset).square()
        return torch.where(variance > rounding, variance, 1.0)

"""The interface of priors: a log density, and the equivalent pseudo-observations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import GMMError, InvalidArgumentError, UnresolvedPriorError
from gmm_lightning.hyperparameters import HyperparameterModule, MixtureShape
from gmm_lightning.priors.data_moments import DataMoments
from gmm_lightning.statistics import Moments


class Prior(HyperparameterModule, ABC):
    """A log-prior on parameters of a mixture.

    Gradient descent adds `log_prob` to the log-likelihood; EM adds `update` to the moments, and
    so reaches the exact mode of the same objective.

    Hyper-parameters that are None follow from the data: their buffers have full shape as soon as
    a layer binds the prior, and hold NaN until `resolve`. They broadcast from the right, so that
    `log_prob` and `update` take parameters `(*S, *B, ...)` of any leading axes S.

    Attributes:
        batch_shape: B, once a layer has bound the prior.
        slot: its parameters: `weights`, `means`, `covariances` or `components` (the latter two).
            A layer takes one prior per slot.
        regularizes_covariances: whether a component of few rows has a proper covariance.
        fits: the kinds of training that it supports, of `em` and `gradient`.
    """

    noun: ClassVar[str] = "prior"
    unresolved: ClassVar[type[GMMError]] = UnresolvedPriorError
    remedy: ClassVar[str] = (
        "fit the layer, call resolve_priors(layer, x), initialize_from a head, or give the values"
    )
    slot: ClassVar[str]
    fits: ClassVar[frozenset[str]] = frozenset({"em", "gradient"})
    regularizes_covariances: ClassVar[bool] = False

    def supports(self, covariance: Covariance) -> bool:
        """Whether the prior is defined for a family; every one by default."""
        return True

    @abstractmethod
    def bind(self, shape: MixtureShape) -> None:
        """Register the hyper-parameters as buffers of full shape, and check them."""

    @abstractmethod
    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        """Log density in nats up to a constant of the hyper-parameters, `(*B)`."""

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        """Moments with the pseudo-observations of the prior added."""
        raise InvalidArgumentError(
            f"the prior {self.name!r} has no closed form for EM: use a gradient fit"
        )

    @property
    def uses_target(self) -> bool:
        """Whether `resolve` asks for the target of the covariances."""
        return False

    def resolve(self, data: DataMoments, num_components: int) -> None:
        """Fill the hyper-parameters that follow from the data."""

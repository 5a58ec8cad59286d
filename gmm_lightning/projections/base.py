"""The interface of projections: constraints of the M-step, and of the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import HyperparameterModule, MixtureShape
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.rows import RowSource
from gmm_lightning.statistics import Moments


class MixtureTensors(Protocol):
    """A named tuple of the unconstrained parameters of mixtures, with or without others.

    Shape:
        mixture_logits `(*S, *B, K)`, means `(*S, *B, K, D)`, raw_scale `(*S, *B, G, ...)`.
    """

    @property
    def mixture_logits(self) -> Tensor:
        """Logarithms of the weights, up to a constant."""
        ...

    @property
    def means(self) -> Tensor:
        """Means."""
        ...

    @property
    def raw_scale(self) -> Tensor:
        """The unconstrained form of the family's scale."""
        ...

    def _replace(self, **changes: Any) -> Self: ...


P = TypeVar("P", bound=MixtureTensors)


class Projection(HyperparameterModule, ABC):
    """A constraint on the parameters of a mixture.

    EM maximises the expected objective subject to it, by `forward`; steps of an optimizer and
    extrapolations are brought back by `constrain`.

    Attributes:
        parts: what it constrains: of `weights`, `means`, `covariances`.
        is_separable: whether it constrains each component by itself, so that some of them may be
            frozen beside it.
        order: the M-step applies lower numbers first: the scatter is taken about the means.
        is_maximum: whether the M-step is a maximum under a constraint, so that the objective rises.
        couples_batch: whether it sees the mixtures of a batch together, in the layer's batch
            shape; False: any of them, as a batch `(M,)`.
        bound: its names in `GMMLayer(bounds={name: ...})`.
    """

    noun: ClassVar[str] = "projection"
    parts: frozenset[str] = frozenset()
    is_separable: ClassVar[bool] = False
    order: ClassVar[int] = 1
    is_maximum: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    bound: ClassVar[tuple[str, ...]] = ()

    @property
    def regularizes_covariances(self) -> bool:
        """Whether a component of few rows has a proper covariance."""
        return False

    def supports(self, covariance: Covariance) -> bool:
        """Whether the projection is defined for a family; every one by default."""
        return True

    def bind(self, shape: MixtureShape) -> None:
        """Register the hyper-parameters as buffers of full shape, and check them."""

    def check(self, source: RowSource) -> None:
        """Refuse rows that the constraint cannot go with; by default there are none."""

    @abstractmethod
    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        """The moments of an M-step under the constraint.

        Args:
            moments: with the priors' pseudo-observations, `(*S, *B, ...)`.
            covariance: the family.
            present: the mixtures before the M-step.
        """

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        """The nearest parameters under the constraint; the same where they satisfy it.

        By default all parameters do.
        """
        return parameters

    def num_fixed_parameters(
        self, num_components: int, num_features: int, covariance: Covariance
    ) -> int:
        """By how many the free parameters of one mixture are fewer; bounds fix none."""
        return 0


def require_one_order(index: Tensor) -> Tensor:
    """The order `(K,)` of the components that is the same in all mixtures of a batch.

    Args:
        index: `(*B, K)`.

    Raises:
        InvalidArgumentError: mixtures have different ones.
    """
    order = index.reshape(-1, index.shape[-1])
    if bool((order != order[0]).any()):
        raise InvalidArgumentError(
            "what is frozen or tied has the same numbers in every mixture of a batch: give one "
            "order for all of them"
        )
    return order[0]


def move_means(moments: Moments, means: Tensor, covariance: Covariance) -> Moments:
    """Moments about other means, `(*B, K, D)`.

    With m the mean of an M-step, worth `n + kappa` rows, the expected objective at another one is
    that of the scatter with `(n + kappa) (m - mu) (m - mu)'` added.
    """
    gap = moments.means - means
    added = covariance.outer(moments.mean_precision.unsqueeze(0), gap.unsqueeze(0))
    return replace(moments, means=means, scatter=moments.scatter + added)


def scatter_of(scale: Tensor, moments: Moments, covariance: Covariance) -> Tensor:
    """The scatter of which covariances of a scale are the estimate, `(*B, G, ...)`."""
    dense = covariance.covariance_matrix(scale, moments.means.shape[-1])
    own = covariance.project(dense).expand_as(moments.scatter)
    return unsqueeze_like(moments.dof, own) * own

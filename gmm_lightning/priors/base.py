"""What a prior is: one formula with two faces, a log density and pseudo-observations."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError, UnresolvedPriorError
from gmm_lightning.statistics import DataMoments, Moments

Hyperparameter = float | Sequence[Any] | Tensor | None


class Prior(nn.Module, ABC):
    """A log-prior on parameters of a mixture, usable by EM and by gradient descent.

    Gradient descent adds `log_prob` to the log-likelihood; EM adds `update` to the moments and
    so reaches the exact mode of the same objective. One test ties the two together.

    Hyper-parameters that are None follow from the data: the buffers exist at full shape as soon
    as a layer binds the prior, hold NaN, and are filled by `resolve`.

    Attributes:
        slot: what it speaks of: `weights`, `means`, `covariances` or `components` (means and
            covariances together). A layer takes one prior per slot.
        fits: the kinds of training it serves, of `em` and `gradient`.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    slot: ClassVar[str]
    fits: ClassVar[frozenset[str]] = frozenset({"em", "gradient"})

    def __init__(self, **hyper: Hyperparameter) -> None:
        super().__init__()
        self._given: dict[str, Tensor | None] = {
            name: None if value is None else torch.as_tensor(value, dtype=torch.float64)
            for name, value in hyper.items()
        }

    def supports(self, covariance: Covariance) -> bool:
        """Whether the prior is defined for a family; every one by default."""
        return True

    @abstractmethod
    def bind(
        self,
        num_components: int,
        num_features: int,
        covariance: Covariance,
        batch_shape: tuple[int, ...],
    ) -> None:
        """Register the hyper-parameters as buffers of full shape, and check them."""

    @abstractmethod
    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        """Log density in nats up to a constant of the hyper-parameters, `(*B)`."""

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        """The same prior as data not yet seen, added to the moments."""
        raise InvalidArgumentError(
            f"the prior {self.name!r} has no closed form for EM: use a gradient fit"
        )

    def resolve(self, data: DataMoments, num_components: int) -> None:
        """Fill the hyper-parameters that follow from the data."""

    def select(self, index: Tensor) -> Prior:
        """The same prior for some mixtures of its batch, along the flattened batch."""
        own = copy.copy(self)
        own.__dict__ = dict(self.__dict__)
        own._batch_dims = 1
        own._buffers = {
            name: b.reshape(-1, *b.shape[self._batch_dims :])[index]
            for name, b in self._buffers.items()
            if b is not None
        }
        own._modules = {name: m.select(index) for name, m in self._modules.items()}
        return own

    def _register(self, name: str, shape: tuple[int, ...], default: float = float("nan")) -> None:
        """Register a buffer of full shape, from the given value or a default."""
        given = self._given[name]
        value = torch.tensor(default, dtype=torch.float64) if given is None else given
        try:
            value = value.expand(shape)
        except RuntimeError:
            raise InvalidArgumentError(
                f"{name} of the prior {self.name!r} must broadcast to {shape}, "
                f"got shape {tuple(value.shape)}"
            ) from None
        self.register_buffer(name, value.clone())

    def _set_default(self, name: str, value: Tensor) -> None:
        """Write a resolved default, unless the user gave a value."""
        if self._given[name] is None:
            buffer = self.get_buffer(name)
            buffer.copy_(value.expand_as(buffer))

    @property
    def resolved(self) -> bool:
        """Whether every hyper-parameter has a value."""
        return not any(torch.isnan(buffer).any() for buffer in self.buffers())

    def require_resolved(self) -> None:
        """Raise when hyper-parameters still wait for data.

        Raises:
            UnresolvedPriorError: they do.
        """
        if not self.resolved:
            missing = [
                name.rpartition(".")[2]
                for name, buffer in self.named_buffers()
                if torch.isnan(buffer).any()
            ]
            raise UnresolvedPriorError(
                f"the prior {self.name!r} has no value yet for {', '.join(missing)}: fit the "
                "layer, call resolve_priors(layer, x), initialize_from a head, or give the values"
            )

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as primitives."""
        return {k: None if v is None else v.tolist() for k, v in self._given.items()}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config().items())


def require_positive(prior: str, name: str, value: Tensor | None) -> None:
    """Refuse a hyper-parameter that is not positive and finite."""
    if value is not None and not bool(((value > 0) & torch.isfinite(value)).all()):
        raise InvalidArgumentError(
            f"{name} of the prior {prior!r} must be > 0 and finite, got {value.tolist()}"
        )

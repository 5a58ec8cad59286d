"""Modules whose hyper-parameters are buffers of full shape: priors, projections, noise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from gmm_lightning._messages import describe, format_too_large
from gmm_lightning._tracing import value_of
from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import all_finite, take_components

Hyperparameter = float | Sequence[Any] | Tensor | None


@dataclass(frozen=True)
class MixtureShape:
    """Sizes K and D, family and batch shape B of the mixtures that a module is bound to."""

    num_components: int
    num_features: int
    covariance: Covariance
    batch_shape: tuple[int, ...] = ()

    @property
    def weights(self) -> tuple[int, ...]:
        """Shape of the weights, `(*B, K)`."""
        return (*self.batch_shape, self.num_components)

    @property
    def means(self) -> tuple[int, ...]:
        """Shape of the means, `(*B, K, D)`."""
        return (*self.weights, self.num_features)

    @property
    def groups(self) -> tuple[int, ...]:
        """Shape of one number per distinct covariance, `(*B, G)`."""
        return (*self.batch_shape, self.covariance.groups(self.num_components))


class HyperparameterModule(nn.Module):
    """A part of a mixture whose hyper-parameters are buffers `(*B, ...)`, NaN until they are known.

    They broadcast from the right, so that parameters `(*S, *B, ...)` may have any leading axes S.

    Attributes:
        batch_shape: B, once a layer has bound the module.
        noun: what the module is, in messages.
        unresolved: the error of one that still waits for values.
        remedy: how it gets them.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    noun: ClassVar[str]
    unresolved: ClassVar[type[GMMError]] = InvalidArgumentError
    remedy: ClassVar[str] = "fit the layer, call resolve_priors(layer, x), or give the values"

    def __init__(self, **hyper: Hyperparameter) -> None:
        super().__init__()
        self.batch_shape: tuple[int, ...] = ()
        try:
            self._given = _Given(
                (name, None if value is None else _as_given(value)) for name, value in hyper.items()
            )
        except (TypeError, ValueError):
            given = ", ".join(f"{name}={describe(value)}" for name, value in hyper.items())
            raise InvalidArgumentError(
                f"the {self.noun} {self.name!r} takes numbers, got {given}"
            ) from None
        # Of each buffer, once a layer has bound the module.
        self._sources: dict[str, _Source] = {}

    def select(self, index: Tensor) -> Self:
        """The module of the mixtures `index` `(M,)` of the flattened batch, of batch shape `(M,)`.

        Its tensors are copies, and all of them buffers: they are only read. This module is left as
        it is. Without a batch, it is this module.
        """
        n = len(self.batch_shape)
        if not n:
            return self
        selected = copy.copy(self)
        selected.batch_shape = tuple(index.shape)
        tensors = {**self._buffers, **self._parameters}
        buffers = {
            name: b
            if b is None or b.shape[:n] != self.batch_shape
            else b.detach().flatten(0, n - 1)[index]
            for name, b in tensors.items()
        }
        modules = {
            name: child.select(index) if isinstance(child, HyperparameterModule) else child
            for name, child in self._modules.items()
        }
        vars(selected).update(_buffers=buffers, _parameters={}, _modules=modules)
        return selected

    def reorder(self, index: Tensor) -> None:
        """Reorder the hyper-parameters of components or their covariances, in place.

        Args:
            index: `(*B, K)`, where the component at each place was.
        """
        n, k = len(self.batch_shape), index.shape[-1]
        for name, source in self._sources.items():
            if source.shape[n] != k:
                continue  # A tied covariance has one for all components.
            buffer, given = self.get_buffer(name), self._given[source.argument]
            buffer.copy_(take_components(buffer, index))
            if given is not None:
                whole = take_components(given.expand(source.shape), index.to(given.device))
                self._give(source.argument, whole)
        for child in self.children():
            if isinstance(child, HyperparameterModule):
                child.reorder(index)

    def _register(
        self,
        name: str,
        shape: tuple[int, ...],
        default: float = float("nan"),
        *,
        argument: str | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Register a buffer of the given value or a default, broadcast to a shape.

        Args:
            name: of the buffer.
            shape: of the value, before the change.
            default: where no value is given.
            argument: the name of the value, where it is another one.
            change: from the value to what the buffer holds.
        """
        source = _Source(argument or name, shape, default, change)
        self._sources = {**self._sources, name: source}
        self.register_buffer(name, self._initial(name))

    def _give(self, argument: str, value: Tensor) -> None:
        """Take a value as if it had been given."""
        self._given = _Given({**self._given, argument: value})

    def _initial(self, name: str) -> Tensor:
        """The value of a buffer as it is bound."""
        argument, shape, default, change = self._sources[name]
        given = self._given[argument]
        value = _as_given(default) if given is None else given
        try:
            value = value.expand(shape)
        except RuntimeError:
            raise InvalidArgumentError(
                f"{argument} of the {self.noun} {self.name!r} must broadcast to {shape}, "
                f"got shape {tuple(value.shape)}"
            ) from None
        return (value if change is None else change(value)).clone()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Give the hyper-parameters the values that they were given; the others are open again.

        Raises:
            InvalidArgumentError: one was given as a tensor on the meta device.
        """
        for name, source in self._sources.items():
            buffer, given = self.get_buffer(name), self._given[source.argument]
            if given is not None and given.is_meta and not buffer.is_meta:
                raise self._no_values(source.argument)
            buffer.copy_(self._initial(name))
        for child in self.children():
            if isinstance(child, HyperparameterModule):
                child.reset_parameters()

    def _require_above(self, name: str, bound: float, words: str) -> None:
        """Refuse a given hyper-parameter that is not finite and above a bound."""
        value = self._given[name]
        if value is None:
            return
        if value_of(((value > bound) & torch.isfinite(value)).all()) is False:
            raise InvalidArgumentError(
                f"{name} of the {self.noun} {self.name!r} must be {words}, got "
                f"{describe(value.tolist())}"
            )

    def _set_default(self, name: str, value: Tensor) -> None:
        """Write a default that follows from data, unless the user gave a value.

        Raises:
            InvalidDataError: it overflows.
        """
        if self._given[self._sources[name].argument] is None:
            buffer = self.get_buffer(name)
            if not all_finite(value.to(buffer)):
                what = f"the rows, which give the {self.noun} {self.name!r} its {name}, are"
                raise InvalidDataError(format_too_large(what, buffer.dtype))
            buffer.copy_(value.expand_as(buffer))

    @property
    def resolved(self) -> bool:
        """Whether every hyper-parameter has a value."""
        return not self._missing()

    def require_resolved(self) -> None:
        """Raise unless every hyper-parameter has a value.

        Raises:
            GMMError: some have none yet; the message names them.
        """
        missing = self._missing()
        if missing:
            raise self.unresolved(
                f"the {self.noun} {self.name!r} has no value yet for {', '.join(missing)}: "
                f"{self.remedy}"
            )

    def _missing(self) -> list[str]:
        named = self.named_buffers()
        return [
            name.rpartition(".")[2] for name, buffer in named if value_of(torch.isnan(buffer).any())
        ]

    def _no_values(self, name: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"{name} of the {self.noun} {self.name!r} must have values, got a tensor on the "
            "meta device: "
            'give numbers, or make it on another one, as in torch.eye(2, device="cpu")'
        )

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives.

        Raises:
            InvalidArgumentError: one is a tensor on the meta device.
        """
        for name, value in self._given.items():
            if value is not None and value.is_meta:
                raise self._no_values(name)
        return {k: None if v is None else v.tolist() for k, v in self._given.items()}

    def extra_repr(self) -> str:
        """The constructor arguments."""
        try:
            hyper = self.config()
        except InvalidArgumentError:
            hyper = {name: describe(value) for name, value in self._given.items()}
        return ", ".join(f"{name}={value}" for name, value in hyper.items())


class _Source(NamedTuple):
    """What a buffer is made of: an argument of a shape, or else a default, and a change of it."""

    argument: str
    shape: tuple[int, ...]
    default: float
    change: Callable[[Tensor], Tensor] | None


class _Given(dict[str, Tensor | None]):
    """Hyper-parameters as they were given, never changed: copies of a module share them.

    Fake tensors could not be copied.
    """

    def __deepcopy__(self, memo: Any) -> Self:
        return self


def _as_given(value: Any) -> Tensor:
    """A hyper-parameter in float64; numbers stay numbers under `torch.device("meta")`."""
    device = value.device if isinstance(value, Tensor) else "cpu"
    return torch.as_tensor(value, dtype=torch.float64, device=device)

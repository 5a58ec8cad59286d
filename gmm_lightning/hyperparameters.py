"""Modules whose hyper-parameters are buffers of full shape: priors, projections."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from gmm_lightning._messages import describe, format_too_large
from gmm_lightning._tracing import value_of
from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
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
        unlimited: names of hyper-parameters that may be infinite.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    noun: ClassVar[str]
    unlimited: ClassVar[frozenset[str]] = frozenset()

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
        # Of each hyper-parameter as it is given, once a layer has bound the module.
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._defaults: dict[str, tuple[float, Covariance | None]] = {}

    def select(self, index: Tensor) -> Self:
        """The module of the mixtures `index` `(M,)` of the flattened batch, of batch shape `(M,)`.

        Its buffers are copies; this module is left as it is. Without a batch, it is this module.
        """
        n = len(self.batch_shape)
        if not n:
            return self
        selected = copy.copy(self)
        selected.batch_shape = tuple(index.shape)
        buffers = {
            name: b if b is None or b.shape[:n] != self.batch_shape else b.flatten(0, n - 1)[index]
            for name, b in self._buffers.items()
        }
        modules = {
            name: child.select(index) if isinstance(child, HyperparameterModule) else child
            for name, child in self._modules.items()
        }
        vars(selected).update(_buffers=buffers, _modules=modules)
        return selected

    def reorder(self, index: Tensor) -> None:
        """Reorder the hyper-parameters of components or their covariances, in place.

        Args:
            index: `(*B, K)`, where the component at each place was.
        """
        n, k = len(self.batch_shape), index.shape[-1]
        for name, shape in self._shapes.items():
            if shape[n] != k:
                continue  # A tied covariance has one for all components.
            buffer, given = self.get_buffer(name), self._given[name]
            buffer.copy_(take_components(buffer, index))
            if given is not None:
                whole = take_components(given.expand(shape), index.to(given.device))
                self._given = _Given({**self._given, name: whole})
        for child in self.children():
            if isinstance(child, HyperparameterModule):
                child.reorder(index)

    def _register(
        self,
        name: str,
        shape: tuple[int, ...],
        default: float = float("nan"),
        family: Covariance | None = None,
    ) -> None:
        """Register a buffer of the given value or a default, broadcast to a shape.

        With a family, the shape is that of dense matrices, which it projects.
        """
        self._shapes = {**self._shapes, name: shape}
        self._defaults = {**self._defaults, name: (default, family)}
        self.register_buffer(name, self._initial(name))

    def _initial(self, name: str) -> Tensor:
        """The value of a hyper-parameter as it is bound."""
        given, shape = self._given[name], self._shapes[name]
        default, family = self._defaults[name]
        value = _as_given(default) if given is None else given
        try:
            value = value.expand(shape)
        except RuntimeError:
            raise InvalidArgumentError(
                f"{name} of the {self.noun} {self.name!r} must broadcast to {shape}, "
                f"got shape {tuple(value.shape)}"
            ) from None
        return (family.project(value) if family else value).clone()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Give the hyper-parameters the values that they were given; the others are open again.

        Raises:
            InvalidArgumentError: one was given as a tensor on the meta device.
        """
        for name in self._shapes:
            buffer, given = self.get_buffer(name), self._given[name]
            if given is not None and given.is_meta and not buffer.is_meta:
                raise self._no_values(name)
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
        if self._given[name] is None:
            buffer = self.get_buffer(name)
            if not all_finite(value.to(buffer)):
                what = f"the rows, which give the {self.noun} {self.name!r} its {name}, are"
                raise InvalidDataError(format_too_large(what, buffer.dtype))
            buffer.copy_(value.expand_as(buffer))

    @property
    def resolved(self) -> bool:
        """Whether every hyper-parameter has a value."""
        return not self._missing()

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

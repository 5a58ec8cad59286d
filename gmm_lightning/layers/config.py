"""Descriptions of plug-ins that a checkpoint can hold: a name and primitives, never code."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from gmm_lightning._plugins import Registry
from gmm_lightning.errors import InvalidArgumentError


class Described(Protocol):
    """A plug-in that can say how it was made."""

    name: str

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        ...


T = TypeVar("T")


def build_config(plugin: Described, registry: Registry[Any]) -> dict[str, Any]:
    """`{"name": ..., arguments}` for a plug-in.

    A third party's class is described by the name it gives itself; reading the description
    back needs that class in the registry.
    """
    return {"name": plugin.name, **plugin.config()}


def built_from(config: dict[str, Any], registry: Registry[T]) -> T:
    """The plug-in that a description names.

    Raises:
        InvalidArgumentError: an unknown name, or arguments that the class does not take.
    """
    arguments = dict(config)
    cls = registry.get(arguments.pop("name"))
    try:
        return cls(**arguments)
    except TypeError as error:
        raise InvalidArgumentError(f"{registry.noun} {cls.__name__}: {error}") from error

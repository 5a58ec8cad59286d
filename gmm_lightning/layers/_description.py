"""Modules as names and primitives, and back: what checkpoints and folders hold, never code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from gmm_lightning._plugins import Registry
from gmm_lightning.covariances import registry as covariance_registry
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.priors import registry as prior_registry

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Described(Protocol):
    """A plug-in that can say how it was made."""

    name: ClassVar[str]

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        ...


T = TypeVar("T")


def build_config(plugin: Described) -> dict[str, Any]:
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


def describe(module: Any, **arguments: Any) -> dict[str, Any]:
    """What rebuilds a module with a family and priors, as primitives.

    Args:
        module: has `covariance` and `priors`.
        arguments: of its constructor, the others.
    """
    dtype = next(module.parameters()).dtype
    return {
        **arguments,
        "covariance": build_config(module.covariance),
        "priors": [build_config(prior) for prior in module.priors.values()],
        "dtype": str(dtype).removeprefix("torch."),
    }


def build(cls: Callable[..., T], description: Any) -> T:
    """A module from its description; its parameters come by `load_state_dict`.

    Raises:
        CheckpointError: a name that is not registered here, or a description that is not one.
    """
    try:
        arguments = dict(description)
        arguments["covariance"] = built_from(arguments["covariance"], covariance_registry)
        arguments["priors"] = [built_from(prior, prior_registry) for prior in arguments["priors"]]
        arguments["dtype"] = DTYPES[arguments["dtype"]]
        # A device that is named here as well as there is refused: it is not the file's to choose.
        return cls(**arguments, device=None)
    # A ValueError is ours, or that of a list in the place of a mapping; a RuntimeError comes of
    # sizes that no memory holds.
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the description of the {getattr(cls, '__name__', 'layer')} cannot be used: {error}"
        ) from error

"""Modules to and from registry names and primitives, as stored in checkpoints and folders."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from itertools import chain
from typing import Any, TypeVar

import torch

from gmm_lightning._plugins import Registry
from gmm_lightning.covariances import Covariance
from gmm_lightning.covariances import registry as covariance_registry
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.priors import Prior
from gmm_lightning.priors import registry as prior_registry

_DTYPES = {"float32": torch.float32, "float64": torch.float64}

T = TypeVar("T")


def plain_arguments(module: Any) -> dict[str, Any]:
    """Constructor arguments except family, priors, device and dtype, from the attributes."""
    others = ("covariance", "priors", "device", "dtype")
    names = [name for name in signature(type(module)).parameters if name not in others]
    values = {name: getattr(module, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def module_to_config(module: Any) -> dict[str, Any]:
    """Constructor arguments of a module with a family and priors, as primitives.

    Reading a third party's family or prior back needs its class in the registry.
    """
    # A quantised map has no parameters.
    dtype = next(chain(module.parameters(), module.buffers())).dtype
    return {
        **plain_arguments(module),
        "covariance": _plugin_to_config(module.covariance),
        "priors": [_plugin_to_config(prior) for prior in module.priors.values()],
        "dtype": str(dtype).removeprefix("torch."),
    }


def module_from_config(cls: Callable[..., T], config: Any) -> T:
    """Module from its configuration, without its trained parameters."""
    try:
        arguments = dict(config)
        arguments["covariance"] = _plugin_from_config(arguments["covariance"], covariance_registry)
        priors = arguments["priors"]
        arguments["priors"] = [_plugin_from_config(prior, prior_registry) for prior in priors]
        arguments["dtype"] = _DTYPES[arguments["dtype"]]
        # A configuration that names a device is refused, as an argument given twice.
        return cls(**arguments, device=None)
    # A ValueError is ours, or from a list instead of a mapping; a RuntimeError is from sizes too
    # large for the memory.
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the description of the {getattr(cls, '__name__', 'layer')} cannot be used: {error}"
        ) from error


def _plugin_to_config(plugin: Covariance | Prior) -> dict[str, Any]:
    return {"name": plugin.name, **plugin.config()}


def _plugin_from_config(config: dict[str, Any], registry: Registry[T]) -> T:
    arguments = dict(config)
    cls = registry.get(arguments.pop("name"))
    try:
        return cls(**arguments)
    except TypeError as error:
        raise InvalidArgumentError(f"{registry.noun} {cls.__name__}: {error}") from error

"""Modules to and from registry names and primitives, as stored in checkpoints and folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from inspect import signature
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

from gmm_lightning._messages import format_error
from gmm_lightning._plain import require_plain
from gmm_lightning._plugins import Registry
from gmm_lightning._validation import require_integer
from gmm_lightning.covariances import Covariance
from gmm_lightning.covariances import registry as covariance_registry
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.evidence import Evidence, evidence_parts
from gmm_lightning.evidence import registry as evidence_registry
from gmm_lightning.noise import Noise
from gmm_lightning.noise import registry as noise_registry
from gmm_lightning.priors import Prior
from gmm_lightning.priors import registry as prior_registry
from gmm_lightning.projections import Projection
from gmm_lightning.projections import registry as projection_registry

# Axes of a batch in a file, at most.
_MOST_AXES = 64
_DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Lists of plugins that a module may have. What freezes and bounds it is among its projections.
_LISTS = {"priors": prior_registry, "projections": projection_registry}
_REGISTRIES: dict[str, Registry[Any]] = {**_LISTS, "evidence": evidence_registry}
_OTHERS = {"covariance", *_LISTS, "evidence", "noise", "freeze", "bounds", "device", "dtype"}

T = TypeVar("T")


def plain_arguments(module: Any) -> dict[str, Any]:
    """Constructor arguments except plugins, device and dtype, from the attributes."""
    names = [name for name in signature(type(module)).parameters if name not in _OTHERS]
    values = {name: getattr(module, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def module_to_config(module: Any) -> dict[str, Any]:
    """Constructor arguments of a module with a family and other plugins, as primitives.

    A projection that is not registered is no part of it. Reading a third party's family or prior
    back needs its class in the registry.
    """
    # A quantised map has no parameters.
    dtype = next(chain(module.parameters(), module.buffers())).dtype
    config = {
        **plain_arguments(module),
        "covariance": _plugin_to_config(module.covariance),
        **{
            name: _list_to_config(getattr(module, name)) for name in _LISTS if hasattr(module, name)
        },
        "dtype": str(dtype).removeprefix("torch."),
    }
    # A head has none of the following, and evidence of a user's own is left to its code.
    noise = getattr(module, "noise", None)
    if noise is not None:
        config["noise"] = _plugin_to_config(noise)
    evidence = evidence_parts(getattr(module, "evidence", None))
    if evidence:
        config["evidence"] = [_plugin_to_config(part) for part in evidence]
    return config


def module_from_config(cls: Callable[..., T], config: Any, max_bytes: float | None = None) -> T:
    """Module from its configuration, without its trained parameters.

    Raises:
        CheckpointError: anything that is not such a configuration, or one of a module with more
            parameters than `max_bytes` can hold: memory is taken for no other.
    """
    try:
        require_plain(config)
        arguments = dict(config)
        family = _plugin_from_config(arguments["covariance"], covariance_registry)
        least = _least_bytes(arguments, family)
        if max_bytes is not None and least > max_bytes:
            raise InvalidArgumentError(
                f"it is of a module of at least {least} bytes, and describes more than the "
                f"{max_bytes:.0f} bytes that the file holds"
            )
        for name in arguments.keys() & _LISTS:
            arguments[name] = _list_from_config(name, arguments[name])
        if arguments.get("noise") is not None:
            arguments["noise"] = _plugin_from_config(arguments["noise"], noise_registry)
        if arguments.get("evidence") is not None:
            arguments["evidence"] = list(_list_from_config("evidence", arguments["evidence"]))
        # A configuration that names a device is refused, as an argument given twice.
        arguments |= {"covariance": family, "dtype": _DTYPES[arguments["dtype"]]}
        return cls(**arguments, device=None)
    # A ValueError is ours, or from a list instead of a mapping; a RuntimeError is from sizes too
    # large for the memory, or from nesting without end.
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
        name, reason = getattr(cls, "__name__", "layer"), format_error(error)
        if isinstance(error, KeyError):
            reason += " is missing or unknown"
        raise CheckpointError(f"the description of the {name} cannot be used: {reason}") from error


def _least_bytes(arguments: dict[str, Any], family: Covariance) -> int:
    """Bytes that the parameters of a layer or a head take at least, from its sizes alone."""

    def size(name: str, value: Any) -> int:
        return require_integer(name, value, least=1)

    k, d = (size(name, arguments[name]) for name in ("num_components", "num_features"))
    sizes = arguments.get("batch_shape", ())
    if len(sizes) > _MOST_AXES:
        raise InvalidArgumentError(
            f"batch_shape must have at most {_MOST_AXES} sizes, got {len(sizes)}"
        )
    batch = math.prod(size("a size in batch_shape", one) for one in sizes)
    # Of symmetric matrices a head may have one half.
    covariances = math.prod(family.shape(k, d)) // 2
    shared = covariances if arguments.get("shared_scale") else 0
    rows = size("in_features", arguments.get("in_features", 1))
    least = batch * (rows * (k + k * d + covariances - shared) + shared)
    return 4 * least


def _list_to_config(plugins: nn.Module) -> list[dict[str, Any]]:
    """Those of a layer's plugins that a registry can make again."""
    return [
        _plugin_to_config(plugin)
        for plugin in plugins.children()
        if isinstance(plugin, Prior)
        or (isinstance(plugin, Projection) and plugin.name in projection_registry.names)
    ]


def _list_from_config(name: str, configs: Any) -> Iterator[Any]:
    """Plugins one by one: a second one that is refused is so before the others are made."""
    if not isinstance(configs, list):
        raise InvalidArgumentError(f"expected a list of {name}")
    return (_plugin_from_config(config, _REGISTRIES[name]) for config in configs)


def _plugin_to_config(plugin: Covariance | Evidence | Noise | Prior | Projection) -> dict[str, Any]:
    return {"name": plugin.name, **plugin.config()}


def _plugin_from_config(config: Any, registry: Registry[T]) -> T:
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"expected the name and the settings of a {registry.noun}")
    arguments = dict(config)
    cls = registry.get(arguments.pop("name"))
    try:
        return cls(**arguments)
    except TypeError as error:
        raise InvalidArgumentError(f"{registry.noun} {cls.__name__}: {error}") from error

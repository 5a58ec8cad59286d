"""Descriptions of plug-ins that a checkpoint can hold: a name and primitives, never code."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, TypeVar

import torch

from gmm_lightning._plugins import Registry
from gmm_lightning.covariances import registry as covariance_registry
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.layers.gmm import GMMLayer
from gmm_lightning.priors import registry as prior_registry


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


def describe_layer(layer: GMMLayer) -> dict[str, Any]:
    """What rebuilds a layer, as primitives: registry names and plain values."""
    return {
        "num_features": layer.num_features,
        "num_components": layer.num_components,
        "covariance": build_config(layer.covariance),
        "priors": [build_config(prior) for prior in layer.all_priors],
        "batch_shape": list(layer.batch_shape),
        "dtype": str(layer.means.dtype).removeprefix("torch."),
    }


def build_layer(config: dict[str, Any]) -> GMMLayer:
    """A layer from its description; its parameters come by `load_state_dict`.

    Raises:
        CheckpointError: a name that is not registered here, or a description that is not one.
    """
    try:
        return GMMLayer(
            config["num_features"],
            config["num_components"],
            built_from(config["covariance"], covariance_registry),
            [built_from(prior, prior_registry) for prior in config["priors"]],
            batch_shape=tuple(config["batch_shape"]),
            dtype={"float32": torch.float32, "float64": torch.float64}[config["dtype"]],
        )
    except (KeyError, TypeError, AttributeError, InvalidArgumentError) as error:
        raise CheckpointError(f"the description of the layer cannot be used: {error}") from error

"""Descriptions of plug-ins that a checkpoint can hold: a name and primitives, never code."""

from __future__ import annotations

from typing import Any

from gmm_lightning.layers._description import build_config, built_from
from gmm_lightning.layers.gmm import GMMLayer

__all__ = ["build_config", "build_layer", "built_from", "describe_layer"]


def describe_layer(layer: GMMLayer) -> dict[str, Any]:
    """What rebuilds a layer, as primitives: registry names and plain values."""
    return layer.describe()


def build_layer(config: dict[str, Any]) -> GMMLayer:
    """A layer from its description; its parameters come by `load_state_dict`.

    Raises:
        CheckpointError: a name that is not registered here, or a description that is not one.
    """
    return GMMLayer.from_description(config)

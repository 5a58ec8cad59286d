"""Safe reading of checkpoints from untrusted sources."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gmm_lightning.errors import CheckpointError
from gmm_lightning.layers import GMMLayer


def read_checkpoint(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """The contents of a checkpoint: tensors and primitives, nothing executable.

    Raises:
        CheckpointError: no such file, or one that is truncated, foreign, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of plain tensors and numbers (it holds code or objects, "
            "which are never loaded, or it is not a torch file)"
        ) from error
    except Exception as error:
        # Garbage that is read as a pickle may raise any error.
        raise CheckpointError(f"{path} is truncated or not a torch file") from error
    if not (isinstance(checkpoint, dict) and isinstance(checkpoint.get("gmm_lightning"), dict)):
        raise CheckpointError(f"{path} was not written by gmm_lightning")
    return checkpoint


def layer_from_checkpoint(checkpoint: dict[str, Any]) -> GMMLayer:
    """An untrained layer of the shape, family and priors that a checkpoint describes."""
    described = checkpoint["gmm_lightning"].get("layer")
    if not isinstance(described, dict):
        raise CheckpointError("the checkpoint does not describe its layer")
    return GMMLayer.from_config(described)


def describe_data(datamodule: Any) -> dict[str, Any]:
    """Name, columns and classes of the data, as primitives."""
    columns, classes = getattr(datamodule, "columns", None), getattr(datamodule, "classes", None)
    return {
        "name": str(getattr(datamodule, "name", "data")),
        "columns": [str(c) for c in columns] if columns else None,
        "classes": [str(c) for c in classes] if classes else None,
    }


def read_state(module: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Load a checkpoint's parameters and buffers into a module.

    Raises:
        CheckpointError: names or shapes that do not fit.
    """
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit this model: {reason}") from error

"""Safe reading of checkpoints from untrusted sources."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from gmm_lightning._messages import format_error
from gmm_lightning._validation import require_integer
from gmm_lightning.errors import CheckpointError, GMMError, lacks_memory
from gmm_lightning.layers import GMMLayer, require_state
from gmm_lightning.training.archive import require_intact, require_plain_values
from gmm_lightning.training.contents import held_bytes, require_bounded, require_own_places

# Entries that a fit goes on from.
_PROGRESS = {
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
_COUNTERS = ("ready", "started", "processed", "completed")


def read_checkpoint(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """The contents of a checkpoint: tensors and primitives, nothing executable.

    Every record is compared with its checksum, and no entry takes more memory than the file.

    Raises:
        CheckpointError: no such file, or one that is truncated, damaged, foreign, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    require_intact(path)
    require_plain_values(path)
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
    check_checkpoint(checkpoint, path)
    return checkpoint


def check_checkpoint(checkpoint: Any, path: str | Path) -> None:
    """Refuse contents of other types than a `GMMModule` writes.

    Raises:
        CheckpointError: the message says what is wrong.
    """
    require_bounded(checkpoint, path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(f"{path} was not written by gmm_lightning")
    described = checkpoint.get("gmm_lightning")
    if not isinstance(described, dict):
        raise CheckpointError(
            f"{path} was not written by a GMMModule of gmm_lightning: a checkpoint of another "
            "LightningModule is loaded by the load_from_checkpoint of its class"
        )
    if not isinstance(described.get("layer"), dict):
        raise CheckpointError(f"{path} is damaged: it does not describe its layer")
    for name in ("phase", "passes_before"):
        _require_count(name, described.get(name, 0), path)
    if described.get("missing") not in (None, "em"):
        raise CheckpointError(f"{path} is damaged: it does not say how missing entries are read")
    if held_bytes(checkpoint["state_dict"]) > Path(path).stat().st_size:
        raise CheckpointError(f"{path} is damaged: it is smaller than the tensors that it claims")


def check_progress(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuse a checkpoint from which no fit can go on.

    Raises:
        CheckpointError: an entry is missing, or of the wrong type.
    """
    for name in ("epoch", "global_step"):
        _require_count(name, checkpoint.get(name), path)
    for name, kind in _PROGRESS.items():
        if not isinstance(checkpoint.get(name), kind):
            raise CheckpointError(
                f"{path} holds no {name} of a fit to go on from: it was written without the state "
                "of the training, or is damaged"
            )
    require_own_places(checkpoint["callbacks"], path)
    try:
        _require_counters(checkpoint["loops"], path)
    except RecursionError as error:
        raise CheckpointError(f"{path} is damaged: its loops are nested without end") from error


def layer_from_checkpoint(checkpoint: dict[str, Any]) -> GMMLayer:
    """An untrained layer of the shape, family and priors that a checkpoint describes.

    Raises:
        CheckpointError: a description that cannot be used, or of more than the tensors hold.
    """
    described = checkpoint["gmm_lightning"]["layer"]
    return GMMLayer.from_config(described, max_bytes=held_bytes(checkpoint["state_dict"]))


def describe_data(datamodule: Any, num_features: int) -> dict[str, Any]:
    """Name, columns and classes of the data, as primitives; columns where each has its name."""
    columns, classes = (_texts(getattr(datamodule, name, None)) for name in ("columns", "classes"))
    return {
        "name": str(getattr(datamodule, "name", "data")),
        "columns": columns if len(columns) == num_features else None,
        "classes": classes or None,
    }


def read_data(checkpoint: dict[str, Any], num_features: int, path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its data, as `describe_data` wrote it.

    Raises:
        CheckpointError: anything else.
    """
    data = checkpoint["gmm_lightning"].get("data") or {}
    names = data if isinstance(data, dict) else {"name": None}
    columns, classes = names.get("columns"), names.get("classes")
    if not isinstance(names.get("name", ""), str) or not all(
        given is None or (isinstance(given, list) and all(map(_is_text, given)))
        for given in (columns, classes)
    ):
        raise CheckpointError(
            f"{path} is damaged: expected the name, the columns and the classes of its data as text"
        )
    if columns is not None and len(columns) != num_features:
        raise CheckpointError(
            f"{path} is damaged: it names {len(columns)} columns of {num_features} features"
        )
    return names


def read_state(module: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Load a checkpoint's parameters and buffers into a module.

    Raises:
        CheckpointError: names, shapes or dtypes that do not fit, or values that no fit ends with.
    """
    require_state(module, checkpoint["state_dict"], path)
    module.load_state_dict(checkpoint["state_dict"])


@contextmanager
def going_on(trainer: L.Trainer, path: str | Path | None, passes: int) -> Iterator[None]:
    """Context of a fit from a checkpoint: an error in its first pass is one of the file's states.

    Args:
        trainer: of the fit.
        path: of the checkpoint; None: the fit begins at the start, and its errors are its own.
        passes: done before.

    Raises:
        CheckpointError: the state of an optimizer, a callback or a loop cannot be used.
    """
    try:
        yield
    except (GMMError, OSError):
        raise
    except (
        *(LookupError, TypeError, AttributeError, ValueError, RuntimeError),
        *(ArithmeticError, AssertionError),
    ) as error:
        done = trainer.current_epoch
        if path is None or lacks_memory(error) or (isinstance(done, int) and done > passes):
            raise
        raise CheckpointError(
            f"{path} cannot be gone on from: the state of its optimizers, callbacks or loops does "
            f"not fit this fit, or is damaged ({format_error(error)})"
        ) from error


def _require_counters(loops: dict[Any, Any], path: str | Path) -> None:
    """Refuse counters of loops that are no counts: Lightning adds to them after a pass."""
    for name, value in loops.items():
        if isinstance(value, dict):
            _require_counters(value, path)
        elif name in _COUNTERS:
            _require_count(name, value, path)


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written to a file: no half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, Iterable) else []


def _require_count(name: str, value: Any, path: str | Path) -> None:
    try:
        require_integer(name, value, least=0)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error

"""Contents of checkpoints, judged before anything is made of them or goes through them."""

from __future__ import annotations

import math
import re
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmm_lightning.errors import CheckpointError

# Settings of Lightning's checkpoint callbacks: files that they remove when they write others.
_REMOVED = re.compile(r"(?:^|_)(?:path|models)$")
# A place that is not where it seems: of a server, or of a folder above.
_ELSEWHERE = re.compile(r"://|::|(?:^|[/\\])\.\.(?:[/\\]|$)")


def require_bounded(checkpoint: Any, path: str | Path) -> None:
    """Refuse contents that are larger in memory than in their file.

    Lists that hold each other several times, and tensors that repeat their entries, have a few
    bytes in a file; whoever goes through them, or copies them, needs time and memory without end.

    Raises:
        CheckpointError: such contents, or tensors of other kinds than a fit has.
    """
    try:
        entries = _count(checkpoint, {})
    except RecursionError:
        entries = math.inf
    if entries > Path(path).stat().st_size:
        raise CheckpointError(f"{path} is damaged: it is smaller than the tensors that it claims")


def held_bytes(state: dict[str, Any]) -> int:
    """Bytes of the tensors of a state, each storage once."""
    storages = (value.untyped_storage() for value in state.values() if isinstance(value, Tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def require_own_places(callbacks: Any, path: str | Path) -> None:
    """Refuse states of callbacks that would have files elsewhere removed.

    Lightning's `ModelCheckpoint` removes the file that was the best one, by the path in its state,
    if that begins with its own folder, or names a server.

    Raises:
        CheckpointError: a path that leads out of the folder that it names.
    """
    for name, value in callbacks.items() if isinstance(callbacks, dict) else ():
        places = list(value) if isinstance(value, dict) else [value]
        named = isinstance(name, str) and _REMOVED.search(name)
        if named and any(isinstance(text, str) and _ELSEWHERE.search(text) for text in places):
            raise CheckpointError(
                f"{path} is not gone on from: a callback in it would remove a file of another "
                f"place, by its {name[:40]}; load its parameters by load_from_checkpoint instead"
            )
        require_own_places(value, path)


def _count(value: Any, known: dict[int, float]) -> float:
    """Entries of nested values, those that are held several times counted as often."""
    if isinstance(value, Tensor):
        return 1 if _is_plain(value) else math.inf
    if isinstance(value, dict):
        # Attributes that a file gives to a mapping hide its methods; torch's states have one.
        if getattr(value, "__dict__", {}).keys() - {"_metadata"}:
            return math.inf
        parts = chain(value.keys(), value.values())
    elif isinstance(value, list | tuple | set):
        parts = iter(value)
    else:
        return 1
    if id(value) not in known:
        # What holds itself is endless.
        known[id(value)] = math.inf
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor has its entries in memory, no more than its storage, and nothing else."""
    if type(value) not in (Tensor, nn.Parameter) or vars(value):
        return False
    if value.is_nested or value.is_quantized or value.is_meta or value.layout != torch.strided:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()

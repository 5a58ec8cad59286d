"""What loaders give, as batches of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gmm_lightning._messages import format_list, format_value
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch, as_tensor, as_weights


def as_global_batch(item: Any, world_size: int) -> Batch:
    """The rows of one batch of any loader, with the number of them over all processes.

    Args:
        item: a `Batch`; rows; a tuple or list that begins with the rows, of which the rest is not
            read; or a mapping or named tuple with the rows as `x`, `weight` and `labels` if there
            are, and tensors of as many rows, which become `extra`.
        world_size: number of processes, which are taken to read equal numbers of rows unless the
            batch says how many there are.

    Raises:
        InvalidDataError: anything else.
    """
    batch = _rows_of(item)
    if batch is None:
        raise InvalidDataError(
            "expected each batch as rows (N, D), a tuple or list that begins with them, a mapping "
            f"with the key 'x', or a gmm_lightning.rows.Batch, got {_describe(item)}; let the "
            "collate_fn of the loader return one of these"
        )
    if batch.num_global_rows is not None:
        return batch
    return batch._replace(num_global_rows=batch.num_rows * world_size)


def require_one_loader(loader: Any, reader: str) -> None:
    """Refuse several loaders side by side, whose batches hold a batch of each.

    Raises:
        InvalidArgumentError: a collection of loaders.
    """
    if isinstance(loader, Mapping | list | tuple) and len(loader) != 1:
        raise InvalidArgumentError(
            f"{reader} reads one training loader, got {_describe(loader)}; join the rows of "
            "several by torch.utils.data.ConcatDataset, and read a list of batches by "
            "DataLoader(batches, batch_size=None)"
        )


def _rows_of(item: Any) -> Batch | None:
    """The batch in an item; None if there is none."""
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor | np.ndarray):
        return Batch(as_tensor(item))
    named = item._asdict() if hasattr(item, "_asdict") else item
    if isinstance(named, Mapping) and _is_array(named.get("x")):
        return _from_mapping(named)
    if isinstance(named, Mapping) or not isinstance(item, list | tuple) or not item:
        return None
    first = item[0]
    # Of a single loader in a list, a batch is a list of its batch.
    return _rows_of(first) if len(item) == 1 or _is_array(first) else None


def _from_mapping(values: Mapping[Any, Any]) -> Batch:
    x = as_tensor(values["x"])
    parts = {n: as_tensor(v, str(n)) for n, v in values.items() if n != "x" and _is_array(v)}
    weight, labels = parts.pop("weight", None), parts.pop("labels", None)
    if weight is not None and x.dim() > 1:
        weight = as_weights(weight, x, x.shape[1:-1])
    if labels is not None and labels.shape[:1] != x.shape[:1]:
        raise InvalidDataError(
            f"labels of a batch must be of shape ({len(x)}, ...) as its rows are, got "
            f"{format_value(labels)}; return as many as there are rows"
        )
    extra = {str(n): v for n, v in parts.items() if v.dim() and len(v) == len(x)}
    return Batch(x, weight, labels, extra or None)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _describe(item: Any) -> str:
    """What an item is, for a message."""
    if isinstance(item, Mapping):
        parts = format_list(f"{key!r} ({type(part).__name__})" for key, part in item.items())
        return f"a {type(item).__name__} of {len(item)}" + (f" ({parts})" if parts else "")
    if isinstance(item, list | tuple):
        kinds = format_list(type(part).__name__ for part in item)
        return f"a {type(item).__name__} of {len(item)}" + (f" ({kinds})" if kinds else "")
    return f"a {type(item).__name__}"

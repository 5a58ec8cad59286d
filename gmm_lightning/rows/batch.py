"""The batch type: rows with their weights, labels and other values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows.conversion import as_tensor


class Batch(NamedTuple):
    """Consecutive rows with their weights, labels and other values.

    Attributes:
        x: rows `(n, *B, D)`; n may be 0.
        weight: `(n, *B)`, or None where every row counts once.
        labels: class indices `(n,)`, soft labels `(n, C)`, or None.
        extra: other values by name, each with n entries along its first axis, or None.
        num_global_rows: rows of the same step over all processes, or None.

    Example:
        >>> batch = Batch(torch.zeros(5, 2), labels=torch.arange(5))
        >>> [part.labels.tolist() for part in batch.split(3)]
        [[0, 1, 2], [3, 4]]
    """

    x: Tensor
    weight: Tensor | None = None
    labels: Tensor | None = None
    extra: Mapping[str, Tensor] | None = None
    num_global_rows: int | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows, n."""
        return self.x.shape[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to every tensor."""
        extra = self.extra
        return Batch(
            change(self.x),
            None if self.weight is None else change(self.weight),
            None if self.labels is None else change(self.labels),
            None if extra is None else {name: change(value) for name, value in extra.items()},
        )

    def at(self, index: slice | Tensor) -> Batch:
        """The rows of a slice or of indices."""
        return self.map(lambda values: values[index])

    def split(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` rows."""
        if self.num_rows <= size:
            yield self
            return
        for start in range(0, self.num_rows, size):
            yield self.at(slice(start, start + size))

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """All rows of several batches, which have the same parts."""
        first, *others = batches
        if not others:
            return first
        extra = None
        if first.extra is not None:
            extra = {k: torch.cat([(b.extra or {})[k] for b in batches]) for k in first.extra}
        x, weight, labels, *_ = zip(*batches, strict=True)
        return Batch(torch.cat(x), _cat(weight), _cat(labels), extra)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    return None if parts[0] is None else torch.cat(parts)  # pyright: ignore[reportArgumentType]


def as_batch(item: Any) -> Batch:
    """A batch from one item of an iterable: a `Batch`, rows, or a sequence of just the rows.

    Raises:
        InvalidDataError: several arrays.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, list | tuple) and len(item) == 1:
        item = item[0]
    if isinstance(item, list | tuple) and is_batches(item):
        raise InvalidDataError(
            f"each batch must be rows, or a sequence holding just the rows; got {len(item)} arrays"
        )
    return Batch(as_tensor(item))


def is_batches(x: Any) -> bool:
    """Whether x is an iterable of batches; anything else is rows in memory, or neither."""
    if isinstance(x, Batch) or not isinstance(x, Iterable):
        return False
    if not isinstance(x, list | tuple):
        known = isinstance(x, Tensor | str | bytes | Mapping)
        return not (known or any(hasattr(x, name) for name in ("__array__", "toarray", "todense")))
    first = x[0] if len(x) else 0.0
    if isinstance(first, list | tuple) and not isinstance(first, Batch) and len(first):
        first = first[0]
    return isinstance(first, Batch) or len(getattr(first, "shape", ())) >= 2

"""Rows and what belongs to them: one batch type, and one protocol for where rows come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Size, Tensor

from gmm_lightning._arrays import as_rows, as_tensor, as_weights, check_finite
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import accumulator_dtype

# Rows that are read, or converted to another dtype, at once.
BLOCK_ROWS = 1 << 16


class Batch(NamedTuple):
    """Consecutive rows with everything that belongs to them.

    Attributes:
        x: rows `(n, *B, D)`; n may be 0.
        weight: `(n, *B)`, or None where every row counts once.
        labels: class indices `(n,)`, soft labels `(n, C)`, or None.
        extra: other values by name, each with n entries along its first axis, or None.
        global_rows: rows of the same step over all processes, or None.

    Example:
        >>> batch = Batch(torch.zeros(5, 2), labels=torch.arange(5))
        >>> [part.labels.tolist() for part in batch.split(3)]
        [[0, 1, 2], [3, 4]]
    """

    x: Tensor
    weight: Tensor | None = None
    labels: Tensor | None = None
    extra: Mapping[str, Tensor] | None = None
    global_rows: int | None = None

    @property
    def num_rows(self) -> int:
        """N."""
        return self.x.shape[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        extra = self.extra
        return Batch(
            change(self.x),
            None if self.weight is None else change(self.weight),
            None if self.labels is None else change(self.labels),
            None if extra is None else {name: change(value) for name, value in extra.items()},
        )

    def at(self, rows: slice | Tensor) -> Batch:
        """The rows of a slice or of indices."""
        return self.map(lambda values: values[rows])

    def split(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` rows."""
        if self.num_rows <= size:
            yield self
            return
        for start in range(0, self.num_rows, size):
            yield self.at(slice(start, start + size))

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """All rows of several batches; a missing weight counts as 1."""
        weighted = [b.weight for b in batches if b.weight is not None]
        weight = None
        if weighted:
            ones = (weighted[0].new_ones(b.num_rows, *weighted[0].shape[1:]) for b in batches)
            own = (b.weight for b in batches)
            weight = torch.cat([o if w is None else w for o, w in zip(ones, own, strict=True)])
        labels = [b.labels for b in batches if b.labels is not None]
        extras = [b.extra for b in batches if b.extra is not None]
        extra = (
            {name: torch.cat([e[name] for e in extras]) for name in extras[0]} if extras else None
        )
        x = torch.cat([b.x for b in batches])
        return Batch(x, weight, torch.cat(labels) if labels else None, extra)


class RowSource(ABC):
    """Rows `(N, *B, D)` that can be read in order, again and again.

    Attributes:
        num_features: D.
        in_memory: whether one batch holds all rows.
        shared: whether the mixtures of a batch read the same rows (B is all ones).
        weighted: whether the rows have weights.
    """

    num_features: int
    in_memory: bool = False
    shared: bool = True
    weighted: bool = False

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """N."""

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """All rows, batch after batch."""

    def read(
        self, start: int = 0, stop: int | None = None, size: int = BLOCK_ROWS
    ) -> Iterator[Batch]:
        """The rows in `[start, stop)`, at most `size` at a time."""
        first, stop = 0, self.num_rows if stop is None else stop
        for batch in self:
            low, high = max(start - first, 0), min(stop - first, batch.num_rows)
            if low < high:
                yield from batch.at(slice(low, high)).split(size)
            first += batch.num_rows

    def read_at(self, starts: Iterable[int], size: int) -> Iterator[Batch]:
        """Blocks of `size` rows that begin at given rows, in that order."""
        for start in starts:
            yield from self.read(start, min(start + size, self.num_rows), size)

    def empty(self) -> Batch:
        """No rows, with all that rows of this source have."""
        return next(iter(self.read(0, 1, 1))).at(slice(0, 0))

    def map(self, change: Callable[[Tensor], Tensor]) -> RowSource:
        """The same rows with x changed batch by batch."""
        return _MappedRows(self, change)

    def every(self, step: int) -> Tensor:
        """Every `step`-th row, starting with the first."""
        parts, first = [], 0
        for batch in self:
            parts.append(batch.x[-first % step :: step])
            first += batch.num_rows
        return torch.cat(parts)

    def some(self, limit: int) -> Tensor:
        """At most `limit` rows, evenly spaced."""
        return self.every(max(1, -(-self.num_rows // limit)))

    @property
    def total_weight(self) -> float:
        """Sum of the weights; N without any."""
        sums = (b.num_rows if b.weight is None else float(b.weight.double().sum()) for b in self)
        return float(sum(sums))

    def check(self) -> int:
        """The number of rows, after reading all of them once.

        Raises:
            InvalidDataError: rows that are not finite (by number), no rows, or weights all zero.
        """
        num_rows, positive = 0, False
        for number, batch in enumerate(self):
            with self._naming(number, num_rows):
                check_finite(batch.x, num_rows)
            num_rows += batch.num_rows
            weight = batch.weight
            positive |= batch.num_rows > 0 and (weight is None or bool((weight > 0).any()))
        if num_rows == 0:
            raise InvalidDataError("there are no rows to fit")
        if not positive:
            raise InvalidDataError("there are no rows to fit: every sample_weight is 0")
        return num_rows

    def sample(self, limit: int, generator: Generator | None) -> Batch:
        """All rows, or `limit` of them drawn without replacement, in their order."""
        if self.num_rows <= limit:
            return Batch.concatenate(list(self))
        drawn = draw_indices(self.num_rows, limit, generator)
        sample, first = None, 0
        for batch in self:
            ends = torch.tensor([first, first + batch.num_rows])
            low, high = torch.searchsorted(drawn, ends).tolist()
            own = batch.at((drawn[low:high] - first).to(batch.x.device))
            # Filled in place: small pieces kept between large blocks would break up the heap.
            # Batches need not be of one dtype.
            wide = accumulator_dtype(batch.x.device)
            if sample is None:
                sample = own._replace(x=own.x.to(wide)).map(
                    lambda v: v.new_ones(limit, *v.shape[1:])
                )
            _write(sample, slice(low, high), own)
            first += batch.num_rows
        assert sample is not None
        return sample

    def _naming(self, number: int, first_row: int) -> AbstractContextManager[None]:
        """Context that adds to an error in which batch it was found."""
        return nullcontext()


class ArrayRows(RowSource):
    """Rows in memory.

    Args:
        batch: all of them.

    Example:
        >>> rows = ArrayRows(Batch(torch.arange(6.0).reshape(3, 2), torch.tensor([1.0, 0.0, 2.0])))
        >>> rows.total_weight, rows.some(2).tolist()
        (3.0, [[0.0, 1.0], [4.0, 5.0]])
    """

    in_memory = True

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.num_features = batch.x.shape[-1]
        self.shared, self.weighted = _is_shared(batch.x), batch.weight is not None

    @property
    def num_rows(self) -> int:
        """N."""
        return self.batch.num_rows

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch

    def read(
        self, start: int = 0, stop: int | None = None, size: int = BLOCK_ROWS
    ) -> Iterator[Batch]:
        """The rows in `[start, stop)`, as views."""
        return self.batch.at(slice(start, stop)).split(size)

    def sample(self, limit: int, generator: Generator | None) -> Batch:
        """All rows, or `limit` of them drawn without replacement, in their order."""
        if self.num_rows <= limit:
            return self.batch
        return self.batch.at(draw_indices(self.num_rows, limit, generator).to(self.batch.x.device))


class _MappedRows(RowSource):
    """A source whose rows are changed as they are read, `BLOCK_ROWS` at a time.

    Args:
        source: the rows.
        change: applied to x.
    """

    def __init__(self, source: RowSource, change: Callable[[Tensor], Tensor]) -> None:
        self._source, self._change = source, change
        self.num_features, self.weighted = source.num_features, source.weighted

    @property
    def num_rows(self) -> int:
        """N."""
        return self._source.num_rows

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._source.read():
            yield batch._replace(x=self._change(batch.x))


class _CheckedRows(RowSource):
    """A re-iterable of batches whose shapes are checked as they are read.

    Args:
        batches: items that `as_batch` takes.
        num_features: D.
        batch_shape: B.
    """

    def __init__(self, batches: Iterable[Any], num_features: int, batch_shape: Size) -> None:
        self._batches, self.num_features, self._batch_shape = batches, num_features, batch_shape
        self._num_rows = 0

    @property
    def num_rows(self) -> int:
        """N, known after `check`."""
        return self._num_rows

    def __iter__(self) -> Iterator[Batch]:
        first_row = 0
        for number, item in enumerate(self._batches):
            with self._naming(number, first_row):
                batch = as_batch(item)
                x = as_rows(batch.x, self.num_features, self._batch_shape)
                weight = as_weights(batch.weight, batch.x, self._batch_shape)
            self.shared = self.shared and _is_shared(x)
            yield batch._replace(x=x, weight=weight)
            first_row += len(x)

    def check(self) -> int:
        self.shared = True
        self._num_rows = super().check()
        return self._num_rows

    @contextmanager
    def _naming(self, number: int, first_row: int) -> Iterator[None]:
        try:
            yield
        except InvalidDataError as error:
            raise InvalidDataError(f"batch {number}, from row {first_row} on: {error}") from error


def as_source(
    x: Any,
    sample_weight: Any = None,
    *,
    num_features: int,
    batch_shape: Size | tuple[int, ...] = (),
) -> RowSource:
    """Rows that were read and checked once, for mixtures of a given width and batch shape.

    Args:
        x: rows `(*S, *B, D)` as a tensor or an array, a `Batch`, a `RowSource`, or a re-iterable
            of batches.
        sample_weight: of rows in memory, broadcasts to `(*S, *B)`.
        num_features: D.
        batch_shape: B.

    Raises:
        TypeError: an iterator that can be read only once.
        InvalidArgumentError: weights for an iterable of batches.
        InvalidDataError: rows of the wrong shape or not finite (by number), bad weights, no rows
            at all, or weights that are all zero.
    """
    batch_shape = Size(batch_shape)
    if isinstance(x, ArrayRows):
        x = x.batch
    if isinstance(x, Batch) or _is_array(x):
        batch = x if isinstance(x, Batch) else Batch(x, sample_weight)
        rows = as_rows(batch.x, num_features, batch_shape)
        source = ArrayRows(
            batch._replace(x=rows, weight=as_weights(batch.weight, batch.x, batch_shape))
        )
    else:
        if not isinstance(x, Iterable):
            raise TypeError(f"x must be rows or an iterable of batches, got {type(x).__name__}")
        if iter(x) is x:
            raise TypeError(
                "x is an iterator that can be read only once, and EM reads the data in every "
                "iteration: pass a list, a DataLoader, or an object whose __iter__ starts anew"
            )
        if sample_weight is not None:
            raise InvalidArgumentError(
                "sample_weight goes with rows in memory; batches of an iterable carry their own: "
                "yield gmm_lightning.rows.Batch(x, weight)"
            )
        source = _CheckedRows(x, num_features, batch_shape)
    source.check()
    return source


def as_batch(item: Any) -> Batch:
    """One item of an iterable as a batch.

    Args:
        item: a `Batch`, rows, a sequence that holds just the rows, or an object with the
            attributes `x` and `weight`.

    Raises:
        InvalidDataError: several arrays.
    """
    if isinstance(item, Batch):
        return item
    if hasattr(item, "x") and hasattr(item, "weight"):
        return Batch(item.x, item.weight, getattr(item, "labels", None))
    if isinstance(item, list | tuple) and len(item) == 1:
        item = item[0]
    if isinstance(item, list | tuple) and not _is_array(item):
        raise InvalidDataError(
            f"each batch must be rows, or a sequence holding just the rows; got {len(item)} arrays"
        )
    return Batch(as_tensor(item))


def draw_indices(count: int, limit: int, generator: Generator | None) -> Tensor:
    """`limit` different indices in `[0, count)`, sorted."""
    device = generator.device if generator is not None else torch.device("cpu")
    if count <= 4 * limit:
        drawn = torch.randperm(count, generator=generator, device=device)[:limit]
    else:
        # 2 limit draws with replacement hold limit different ones: the chance of less is nil.
        found = torch.randint(count, (2 * limit,), generator=generator, device=device).unique()
        order = torch.randperm(len(found), generator=generator, device=device)
        drawn = found[order[:limit]]
    return drawn.sort().values.cpu()


def _is_shared(x: Tensor) -> bool:
    return all(size == 1 for size in x.shape[1:-1])


def _is_array(x: Any) -> bool:
    """Whether x is rows in memory rather than an iterable of batches."""
    if isinstance(x, Tensor) or hasattr(x, "__array__"):
        return True
    if isinstance(x, list | tuple) and not isinstance(x, Batch):
        first = x[0] if len(x) else 0.0
        if isinstance(first, Batch):
            return False
        if isinstance(first, list | tuple) and len(first):
            first = first[0]
        return not (isinstance(first, Tensor | np.ndarray) and first.ndim >= 2)
    return False


def _write(into: Batch, rows: slice, batch: Batch) -> None:
    """Copy a batch into rows of another."""
    for name in ("x", "weight", "labels"):
        if getattr(batch, name) is not None and getattr(into, name) is not None:
            getattr(into, name)[rows] = getattr(batch, name)
    for name, value in (batch.extra or {}).items():
        assert into.extra is not None
        into.extra[name][rows] = value

"""Sources of rows that follow from another one: changed, or without the incomplete rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

import torch

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows.batch import Batch
from gmm_lightning.rows.source import BLOCK_ROWS, RowSource


class _DerivedRows(RowSource):
    """Base: what a source says of its rows, and every way to read them by `read`."""

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self.num_rows, self.num_features = source.num_rows, source.num_features
        self.shared, self.weighted, self.columns = source.shared, source.weighted, source.columns
        self.missing, self.uncertain = source.missing, source.uncertain

    def __iter__(self) -> Iterator[Batch]:
        return self.read()


class MappedRows(_DerivedRows):
    """The rows of a source with each batch changed, as it is read.

    Args:
        source: the rows.
        change: a batch of as many rows, from a batch.
        columns: names of the features, if there are others than before.
        weighted: whether the change gives the rows other weights.

    Example:
        >>> from gmm_lightning.rows import ArrayRows
        >>> source = ArrayRows(Batch(torch.arange(3.0).reshape(3, 1)))
        >>> doubled = MappedRows(source, lambda batch: batch._replace(x=2 * batch.x))
        >>> [batch.x.tolist() for batch in doubled.read(1, 3)]
        [[[2.0], [4.0]]]
    """

    def __init__(
        self,
        source: RowSource,
        change: Callable[[Batch], Batch],
        columns: Sequence[str] | None = None,
        *,
        weighted: bool = False,
    ) -> None:
        super().__init__(source)
        self._change, self._weighs = change, weighted
        self.weighted = weighted or source.weighted
        if columns is not None:
            self.columns, self.num_features = tuple(columns), len(columns)

    @property
    def total_weight(self) -> float:
        """Sum of the weights; N without weights."""
        return super().total_weight if self._weighs else self._source.total_weight

    def read(
        self, start: int = 0, stop: int | None = None, size: int = BLOCK_ROWS
    ) -> Iterator[Batch]:
        """The rows in `[start, stop)`, at most `size` at a time."""
        return map(self._change, self._source.read(start, stop, size))

    def read_at(self, starts: Iterable[int], size: int) -> Iterator[Batch]:
        """Blocks of `size` rows that begin at given rows, in that order."""
        return map(self._change, self._source.read_at(starts, size))


class CompleteRows(_DerivedRows):
    """The rows of a source in which no entry is missing; one pass over it counts them.

    Args:
        source: the rows.
        counts: of the complete rows in each block, if they are known from another source of the
            same rows.

    Attributes:
        counts: of the complete rows in each block of `BLOCK_ROWS`.
        num_dropped: rows that are left out.

    Raises:
        InvalidDataError: an entry is missing in every row.

    Example:
        >>> from gmm_lightning.rows import ArrayRows
        >>> x = torch.tensor([[0.0, 1.0], [torch.nan, 2.0], [3.0, 4.0]])
        >>> rows = CompleteRows(ArrayRows(Batch(x)))
        >>> rows.num_rows, [batch.x.tolist() for batch in rows.read(1)]
        (2, [[[3.0, 4.0]]])
    """

    def __init__(self, source: RowSource, counts: Sequence[int] | None = None) -> None:
        super().__init__(source)
        blocks = source.read(size=BLOCK_ROWS) if counts is None else ()
        self.counts = counts or [complete(batch).num_rows for batch in blocks]
        self._starts = [0, *accumulate(self.counts)]
        self.num_rows = self._starts[-1]
        self.num_dropped = source.num_rows - self.num_rows
        if not self.num_rows:
            raise InvalidDataError(
                "an entry is missing in every row, so none is left without them: fit to what is "
                "observed, by missing=em"
            )

    def read(
        self, start: int = 0, stop: int | None = None, size: int = BLOCK_ROWS
    ) -> Iterator[Batch]:
        """The rows in `[start, stop)`, `size` at a time."""
        stop = self.num_rows if stop is None else stop
        first = bisect_right(self._starts, start) - 1
        begin = min(first * BLOCK_ROWS, self._source.num_rows)
        blocks = map(complete, self._source.read(begin, None, BLOCK_ROWS))
        yield from rebatch(_skip(blocks, start - self._starts[first]), stop - start, size)


def complete(batch: Batch) -> Batch:
    """The rows of a batch in which no entry is missing."""
    kept = ~torch.isnan(batch.x).flatten(1).any(-1)
    return batch if bool(kept.all()) else batch.at(kept.nonzero().squeeze(-1))


def rebatch(batches: Iterable[Batch], num_rows: int, size: int) -> Iterator[Batch]:
    """The first `num_rows` rows in batches of exactly `size`, except the last.

    Batches of that size are passed on without a copy.
    """
    kept: list[Batch] = []
    room = size
    for batch in batches if num_rows else ():
        rest = batch.at(slice(0, num_rows))
        num_rows -= rest.num_rows
        while rest.num_rows >= room:
            yield Batch.concatenate([*kept, rest.at(slice(0, room))])
            kept, rest, room = [], rest.at(slice(room, None)), size
        if rest.num_rows:
            kept.append(rest)
            room -= rest.num_rows
        if num_rows == 0:
            break
    if kept:
        yield Batch.concatenate(kept)


def _skip(batches: Iterable[Batch], n: int) -> Iterator[Batch]:
    """The rows after the first n."""
    for batch in batches:
        yield batch.at(slice(n, None)) if n else batch
        n = max(0, n - batch.num_rows)

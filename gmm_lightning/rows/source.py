"""Sources of rows: the interface, and rows in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Generator, Tensor

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows.batch import Batch
from gmm_lightning.rows.conversion import check_finite
from gmm_lightning.rows.uncertain import (
    ObservedFeatures,
    check_errors,
    errors_of,
    uncertain_rows,
)

# Rows that are read, or converted to another dtype, at once.
BLOCK_ROWS = 1 << 16


class RowSource(ABC):
    """Rows `(N, *B, D)` that can be read in order, again and again.

    Attributes:
        num_rows: N.
        num_features: D.
        in_memory: whether one batch holds all rows.
        shared: whether the mixtures of a batch read the same rows (B is all ones).
        weighted: whether the rows have weights.
        columns: names of the features where the rows come from a table, else empty.
        missing: None, or `em`, where entries may be missing.
        uncertain: whether, once they are checked, some rows have missing entries or errors.
    """

    num_rows: int
    num_features: int
    in_memory: bool = False
    shared: bool = True
    weighted: bool = False
    columns: tuple[str, ...] = ()
    missing: str | None = None
    uncertain: bool = False

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

    def map(self, change: Callable[[Tensor], Tensor]) -> RowSource:
        """The same rows with a function applied to x, batch by batch."""
        return _MappedRows(self, change)

    def every(self, step: int) -> Tensor:
        """Every `step`-th row, starting with the first."""
        parts, first = [], 0
        for batch in self:
            # A view would keep the whole block.
            parts.append(batch.x[-first % step :: step].clone())
            first += batch.num_rows
        return torch.cat(parts)

    def some(self, limit: int) -> Tensor:
        """At most `limit` rows, evenly spaced."""
        return self.every(max(1, -(-self.num_rows // limit)))

    @property
    def total_weight(self) -> float:
        """Sum of the weights; N without weights."""
        sums = (b.num_rows if b.weight is None else float(b.weight.double().sum()) for b in self)
        return float(sum(sums))

    def check(self) -> int:
        """The number of rows, after reading all of them once.

        Raises:
            InvalidDataError: rows that are not finite (by number), no rows, or weights all zero;
                where entries may be missing, a feature that is never observed.
        """
        num_rows, positive, observed, kinds = 0, False, ObservedFeatures(), set[int | None]()
        for batch in self:
            check_finite(batch.x, num_rows, self.columns, missing=self.missing)
            check_errors(batch, num_rows)
            errors = errors_of(batch)
            kinds.add(None if errors is None else errors.dim())
            if len(kinds) > 1:
                raise InvalidDataError(
                    "error_covariance must be given for all batches or for none, as variances or "
                    f"as matrices; from row {num_rows} on it is not as before"
                )
            if self.missing is not None:
                observed.add(batch)
            if self.missing is not None or errors is not None:
                self.uncertain = self.uncertain or bool(uncertain_rows(batch).any())
            num_rows += batch.num_rows
            weight = batch.weight
            positive |= batch.num_rows > 0 and (weight is None or bool((weight > 0).any()))
        if num_rows == 0:
            raise InvalidDataError("there are no rows to fit")
        if not positive:
            raise InvalidDataError("there are no rows to fit: every sample_weight is zero")
        observed.require_all(self.columns)
        return num_rows

    def sample(self, limit: int, generator: Generator | None) -> Batch:
        """All rows, or `limit` of them drawn without replacement, in their order."""
        if self.num_rows <= limit:
            # Batches may be read into the same memory.
            return Batch.concatenate([batch.map(Tensor.clone) for batch in self])
        return self.take(_draw_indices(self.num_rows, limit, generator))

    def take(self, index: Tensor) -> Batch:
        """The rows of given numbers, increasing, `(n,)`."""
        sample, first = None, 0
        for batch in self:
            ends = torch.tensor([first, first + batch.num_rows])
            low, high = torch.searchsorted(index, ends).tolist()
            own = batch.at((index[low:high] - first).to(batch.x.device))
            # Filled in place: small pieces kept between large blocks would fragment the heap.
            # Batches need not be of one dtype.
            if sample is None:
                wide = own._replace(x=own.x.to(accumulator_dtype(own.x.device)))
                sample = wide.map(lambda values: values.new_ones(len(index), *values.shape[1:]))
            for into, values in zip(_tensors(sample), _tensors(own), strict=True):
                into[low:high] = values
            first += batch.num_rows
        assert sample is not None
        return sample


class ArrayRows(RowSource):
    """A batch of rows in memory.

    Example:
        >>> rows = ArrayRows(Batch(torch.arange(6.0).reshape(3, 2), torch.tensor([1.0, 0.0, 2.0])))
        >>> rows.total_weight, rows.some(2).tolist()
        (3.0, [[0.0, 1.0], [4.0, 5.0]])
    """

    in_memory = True

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.num_rows, self.num_features = batch.num_rows, batch.x.shape[-1]
        self.shared, self.weighted = is_shared(batch.x), batch.weight is not None

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
        return self.take(_draw_indices(self.num_rows, limit, generator))

    def take(self, index: Tensor) -> Batch:
        """The rows of given numbers, `(n,)`."""
        return self.batch.at(index.to(self.batch.x.device))


class _MappedRows(RowSource):
    """A source whose x is changed as it is read, `BLOCK_ROWS` rows at a time."""

    def __init__(self, source: RowSource, change: Callable[[Tensor], Tensor]) -> None:
        self._source, self._change = source, change
        self.num_rows, self.num_features = source.num_rows, source.num_features
        self.weighted, self.columns = source.weighted, source.columns
        self.missing, self.uncertain = source.missing, source.uncertain

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._source.read():
            yield batch._replace(x=self._change(batch.x))


def _draw_indices(count: int, limit: int, generator: Generator | None) -> Tensor:
    """`limit` different indices in `[0, count)`, sorted."""
    device = generator.device if generator is not None else torch.device("cpu")
    if count <= 4 * limit:
        drawn = torch.randperm(count, generator=generator, device=device)[:limit]
    else:
        # 2 limit draws with replacement hold limit different ones, up to a negligible chance.
        found = torch.randint(count, (2 * limit,), generator=generator, device=device).unique()
        order = torch.randperm(len(found), generator=generator, device=device)
        drawn = found[order[:limit]]
    return drawn.sort().values.cpu()


def is_shared(x: Tensor) -> bool:
    """Whether the mixtures of a batch read the same rows `(N, *B, D)`: B is all ones."""
    return all(size == 1 for size in x.shape[1:-1])


def _tensors(batch: Batch) -> list[Tensor]:
    parts = (batch.x, batch.weight, batch.labels, *(batch.extra or {}).values())
    return [values for values in parts if values is not None]

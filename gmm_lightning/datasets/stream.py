"""Rows of files of any size, read block by block, repeatedly, from any row on."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_lightning._messages import format_list
from gmm_lightning._validation import require_bool
from gmm_lightning.datasets._arrays import ArrayReader
from gmm_lightning.datasets._cells import encode_labels, require_classes
from gmm_lightning.datasets._open import Columns, open_reader, open_table
from gmm_lightning.datasets._prefetch import prefetch
from gmm_lightning.datasets._reader import Block, TableReader
from gmm_lightning.datasets._shards import Shard, list_files
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import BLOCK_ROWS, Batch, RowSource, as_tensor, rebatch

# More readers than this are opened again for every pass: each map keeps a file open.
_MAX_READERS = 64


class FileRows(RowSource):
    """Rows of one file, or of shards one after the other: see :func:`open_rows`.

    Attributes:
        name: the file's name without its suffix, or the folder's.
        columns: names of the features.
        weighted: whether rows have weights.
        labelled: whether rows have labels.
        codes: the code of each label where batches hold them, None where they do not.
    """

    def __init__(self, name: str, columns: Sequence[str], shards: Sequence[Shard]) -> None:
        self.name, self.columns = name, tuple(columns)
        self.num_features = len(self.columns)
        self._shards = list(shards)
        self._starts = [0, *accumulate(shard.num_rows for shard in shards)]
        self.num_rows = self._starts[-1]
        self.weighted = shards[0].positions.weight is not None
        self.labelled = shards[0].positions.label is not None
        self.codes: dict[Any, int] | None = None

    @cached_property
    def total_weight(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Sum of the weights, by one pass over the rows; N without weights.

        Raises:
            InvalidDataError: it is 0.
        """
        if not self.weighted:
            return self.num_rows
        total = super().total_weight
        if total == 0:
            raise InvalidDataError(f"{self.name}: all weights are 0, so no row of it counts")
        return total

    def with_labels(self, classes: Sequence[str] | None = None) -> FileRows:
        """The same rows with their labels, where they have any: codes as :func:`read_table`'s.

        Args:
            classes: names of the classes in the order of their codes; others have the code -1.
                None: those of these rows.
        """
        twin = copy.copy(self)
        if self.labelled:
            codes, names = self._label_codes
            if classes is not None and classes != names:
                places = {name: place for place, name in enumerate(classes)}
                at = [*(places.get(name, -1) for name in names), -1]
                codes = {label: at[code] for label, code in codes.items()}
            twin.codes = codes
        return twin

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The name of each class, by one pass over the rows; None without labels."""
        return self._label_codes[1] if self.labelled else None

    @cached_property
    def _label_codes(self) -> tuple[dict[Any, int], tuple[str, ...]]:
        """The code of each label and the name of each code, by one pass over the rows."""
        blocks = (shard.blocks(0, BLOCK_ROWS, labelled=True) for shard in self._shards)
        labels = list({label for block in chain(*blocks) for label in block.labels or ()})
        codes, classes = encode_labels(labels)
        require_classes(classes, *self._shards[0].label)
        return dict(zip(labels, codes.tolist(), strict=True)), classes

    def __iter__(self) -> Iterator[Batch]:
        return self.read()

    def read(
        self, start: int = 0, stop: int | None = None, size: int = BLOCK_ROWS
    ) -> Iterator[Batch]:
        """The rows in `[start, stop)`, `size` at a time; the next ones are read ahead.

        Raises:
            InvalidArgumentError: bounds outside of the rows.
            InvalidDataError: a bad row, when its batch is reached.
        """
        return prefetch(self._batches(start, stop, size))

    def read_at(self, starts: Iterable[int], size: int) -> Iterator[Batch]:
        """Blocks of `size` rows that begin at given rows, in that order."""
        stop = self.num_rows
        return prefetch(next(self._batches(i, min(i + size, stop), size)) for i in starts)

    def every(self, step: int) -> Tensor:
        """Every `step`-th row `(n, D)`; text and parquet files are read completely for it."""
        if all(shard.reopen().random_access for shard in self._shards):
            singles = (next(self._batches(i, i + 1, 1)).x for i in range(0, self.num_rows, step))
            return torch.cat(list(singles))
        return super().every(step)

    def _batches(self, start: int, stop: int | None, size: int) -> Iterator[Batch]:
        stop = self.num_rows if stop is None else stop
        if not 0 <= start <= stop <= self.num_rows or size < 1:
            raise InvalidArgumentError(
                f"expected 0 <= start <= stop <= {self.num_rows} and size >= 1, got start={start}, "
                f"stop={stop} and size={size}"
            )
        return rebatch(map(self._as_batch, self._blocks(start, size)), stop - start, size)

    def _blocks(self, start: int, size: int) -> Iterator[Block]:
        first = bisect_right(self._starts, start) - 1
        for shard, begin in zip(self._shards[first:], self._starts[first:], strict=False):
            yield from shard.blocks(max(start - begin, 0), size, labelled=self.codes is not None)

    def _as_batch(self, block: Block) -> Batch:
        x, weight, labels = block.x, None, None
        if self.weighted:
            x, weight = np.ascontiguousarray(x[:, :-1]), as_tensor(x[:, -1].copy())
        if self.codes is not None and block.labels is not None:
            # NaN, which stands for no label, is equal to nothing.
            codes = [self.codes.get(label, -1) for label in block.labels]
            labels = torch.tensor(codes, dtype=torch.long)
        return Batch(as_tensor(x), weight, labels)


def open_rows(
    path: str | Path,
    *,
    columns: Columns = None,
    weight: str | int | None = None,
    label: str | int | None = None,
    header: bool | None = None,
    separator: str | None = None,
    key: str | None = None,
    allow_missing: bool = False,
) -> FileRows:
    r"""Rows of a file, or of shards in a folder, of which only a few blocks are in memory.

    A .npy file is mapped into memory: its blocks are views, in its own float32 or float64 (other
    dtypes are converted block by block). So are the arrays of a .npz file, unless they are
    compressed: then they are in memory as a whole. The lines of text are counted once, so that
    reading can start at any row. A .parquet file is read by row groups.

    Args:
        path: a file; a folder or a pattern such as `part-*.npy`, whose files are taken by name,
            one after the other, and must be of one kind with the same columns.
        columns: which to read, as for :func:`gmm_lightning.datasets.read_table`. None: every
            column of numbers, judged by the head of a text file.
        weight: the column of sample weights, by name or number.
        label: the column of classes.
        header: as for `read_table`.
        separator: as for `read_table`.
        key: as for `read_table`.
        allow_missing: as for `read_table`.

    Raises:
        InvalidDataError: no file, an empty one, files of several kinds or of other columns; a
            bad row, when its block is reached.
        InvalidArgumentError: an unknown suffix, column, array or separator.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "big.npy")
        >>> np.save(path, np.arange(10.0, dtype=np.float32).reshape(5, 2))
        >>> stream = open_rows(path)
        >>> stream.num_rows, stream.columns
        (5, ('x0', 'x1'))
        >>> [batch.x.tolist() for batch in stream.read(1, 4, size=2)]
        [[[2.0, 3.0], [4.0, 5.0]], [[6.0, 7.0]]]
        >>> del stream; folder.cleanup()
    """
    options: dict[str, Any] = {"header": header, "separator": separator, "key": key, "mapped": True}
    options["allow_missing"] = require_bool("allow_missing", allow_missing)
    files = list_files(path)
    first, positions = open_table(files[0], columns, label, weight, **options)
    names = first.all_names
    expected = [names[j] for j in (*positions.features, *positions.others)]
    shards = []
    for file in files:
        reopen = partial(open_reader, file, expected, **options)
        reader = first if file is files[0] else reopen()
        _require_like(reader, first)
        if len(files) <= _MAX_READERS or not isinstance(reader, ArrayReader):
            reopen = partial(_identity, reader)
        shards.append(Shard(reopen, positions, reader.count_rows(), allow_missing))
    stream = FileRows(Path(str(path)).stem, [first.names[j] for j in positions.features], shards)
    if stream.num_rows == 0:
        raise InvalidDataError(f"{path} holds no rows")
    return stream


def _identity(reader: TableReader) -> TableReader:
    return reader


def _require_like(reader: TableReader, first: TableReader) -> None:
    """Refuse a shard whose columns or dtype differ from those of the first."""
    if reader.all_names != first.all_names:
        raise InvalidDataError(
            f"the columns of {reader.path} are {format_list(reader.all_names, 20)}, those of "
            f"{first.path} are {format_list(first.all_names, 20)}; expected shards with the same "
            "columns"
        )
    if isinstance(reader, ArrayReader) and isinstance(first, ArrayReader):
        dtype, expected = reader.array.dtype, first.array.dtype
        if dtype != expected:
            raise InvalidDataError(
                f"{reader.path} is of dtype {dtype}, {first.path} of {expected}; expected shards "
                "of the same dtype"
            )

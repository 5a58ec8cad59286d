"""Rows of a parquet file, by pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gmm_lightning._messages import format_error
from gmm_lightning.datasets._reader import (
    Block,
    Selection,
    TableReader,
    require_unique,
    skip_rows,
)
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError


class ParquetReader(TableReader):
    """A .parquet file."""

    named = True

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise InvalidArgumentError(
                f"reading {path} needs pyarrow: pip install gmm-lightning[parquet]"
            ) from error
        self.path = path
        with _explain(path):
            metadata = pq.read_metadata(path)
            schema = metadata.schema.to_arrow_schema()
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if min(sizes, default=0) < 0 or sum(sizes) != metadata.num_rows:
            raise InvalidDataError(
                f"{path} is damaged: it claims {metadata.num_rows} rows, and its row groups hold "
                f"{sum(sizes)}"
            )
        # The first row of each row group, and the number of all rows.
        self._group_starts = np.cumsum([0, *sizes])
        self._types: list[Any] = schema.types
        self.names = tuple(schema.names)
        require_unique(path, self.names)
        types = pa.types
        tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
        numeric = (j for j, kind in enumerate(self._types) if any(t(kind) for t in tests))
        self._numeric = dict.fromkeys(numeric)

    def numeric_columns(self) -> list[int]:
        """The columns of a numeric type."""
        return list(self._numeric)

    def count_rows(self) -> int:
        """Number of rows, from the file's footer."""
        return int(self._group_starts[-1])

    def blocks(self, selection: Selection, batch_rows: int, start: int = 0) -> Iterator[Block]:
        """Row groups in batches, from the one that holds `start` on; rows are counted from 0."""
        import pyarrow.parquet as pq

        for j in selection.columns:
            if j not in self._numeric:
                raise InvalidDataError(
                    f"{self.path}: column {self.names[j]} is of type {self._types[j]}; "
                    "expected numbers"
                )
        starts, label = self._group_starts, selection.label
        first = int(np.searchsorted(starts, start, side="right")) - 1
        wanted = [*selection.columns, *(() if label is None else (label,))]
        with _explain(self.path), pq.ParquetFile(self.path) as file:
            batches = file.iter_batches(
                batch_rows,
                row_groups=list(range(first, len(starts) - 1)),
                columns=[self.names[j] for j in wanted],
            )
            blocks = self._as_blocks(batches, selection, int(starts[first]))
            yield from skip_rows(blocks, start - int(starts[first]))

    def _as_blocks(self, batches: Iterable[Any], selection: Selection, row: int) -> Iterator[Block]:
        import pyarrow as pa

        columns, label, errors = selection
        for batch in batches:
            x = np.empty((batch.num_rows, len(columns)))
            for i, j in enumerate(columns):
                numbers = batch.column(self.names[j]).cast(pa.float64(), safe=False)
                # NaN where a value is missing.
                x[:, i] = numbers.to_numpy(zero_copy_only=False)
            errors.add_block(x, columns, row)
            labels = None
            if label is not None:
                labels = batch.column(self.names[label]).to_pylist()
            row += len(x)
            yield Block(x, labels)


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Context that turns errors of pyarrow into one sentence about the file."""
    import pyarrow as pa

    try:
        yield
    except GMMError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise InvalidDataError(
            f"{path} is not a readable parquet file ({format_error(error)})"
        ) from error

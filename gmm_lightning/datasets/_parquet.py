"""Rows of a parquet file, by pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._faults import Faults
from gmm_lightning.datasets._source import (
    Block,
    Source,
    reading,
    require_unique,
    without_first,
)
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


class ParquetSource(Source):
    """A .parquet file.

    Args:
        path: the file.

    Raises:
        InvalidArgumentError: pyarrow is not installed.
        InvalidDataError: not a parquet file.
    """

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
        with reading(path):
            try:
                schema = pq.read_schema(path)
            except pa.ArrowInvalid as error:
                raise InvalidDataError(f"{path} is not a readable parquet file") from error
        self.schema: Any = schema
        self.names = tuple(schema.names)
        require_unique(path, self.names)
        types = pa.types
        tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
        self.numbers = [j for j, kind in enumerate(schema.types) if any(t(kind) for t in tests)]

    def numeric(self) -> list[int]:
        """The columns whose type is one of numbers."""
        return list(self.numbers)

    def count(self) -> int:
        """As the file's footer says."""
        import pyarrow.parquet as pq

        with reading(self.path):
            return pq.read_metadata(self.path).num_rows

    def blocks(
        self,
        columns: Sequence[int],
        label: int | None,
        rows: int,
        faults: Faults,
        start: int = 0,
    ) -> Iterator[Block]:
        """Row groups in batches, from the one that holds `start` on; rows are counted from 0.

        Raises:
            InvalidDataError: a column of another type than numbers, or a damaged file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for j in columns:
            if j not in self.numbers:
                raise InvalidDataError(
                    f"{self.path}: column {self.names[j]} is of type {self.schema.types[j]}; "
                    "expected numbers"
                )
        wanted = [*columns, *(() if label is None else (label,))]
        with reading(self.path), pq.ParquetFile(self.path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            first = np.searchsorted(np.cumsum(sizes), start, side="right")
            before = sum(sizes[:first])
            batches = file.iter_batches(
                rows,
                row_groups=list(range(first, len(sizes))),
                columns=[self.names[j] for j in wanted],
            )
            try:
                read = self._converted(batches, columns, label, before, faults)
                yield from without_first(read, start - before)
            except (pa.ArrowInvalid, OSError) as error:
                raise InvalidDataError(f"{self.path} is not a readable parquet file") from error

    def _converted(
        self,
        batches: Iterator[Any],
        columns: Sequence[int],
        label: int | None,
        row: int,
        faults: Faults,
    ) -> Iterator[Block]:
        for batch in batches:
            held = dict(zip(batch.schema.names, batch.columns, strict=True))
            x = np.empty((batch.num_rows, len(columns)))
            for i, j in enumerate(columns):
                x[:, i] = _numbers(held[self.names[j]])
            faults.add_block(x, columns, row)
            labels = None
            if label is not None:
                labels = held[self.names[label]].to_pylist()
                for i, value in enumerate(labels):
                    faults.add_label(label, row + i, value)
            row += len(x)
            yield Block(x, labels)


def _numbers(column: Any) -> NDArray[np.float64]:
    """A column as float64, with NaN where nothing is."""
    import pyarrow as pa

    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)

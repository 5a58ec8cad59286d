"""Opening a table: the reader of a file, and the positions of its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gmm_lightning._messages import format_list
from gmm_lightning.datasets._arrays import ArrayReader
from gmm_lightning.datasets._parquet import ParquetReader
from gmm_lightning.datasets._reader import TableReader, require_file
from gmm_lightning.datasets._text import TextReader
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

_TEXT, _ARRAYS, _PARQUET = (".csv", ".tsv", ".txt"), (".npy", ".npz"), (".parquet",)
SUFFIXES = (*_TEXT, *_ARRAYS, *_PARQUET)
Columns = Sequence[str | int] | str | int | None


class Positions(NamedTuple):
    """Positions in a file of the columns to read."""

    features: list[int]
    label: int | None
    weight: int | None

    @property
    def numbers(self) -> list[int]:
        """Positions of the features and of the weight, if there is one."""
        return [*self.features, *(() if self.weight is None else (self.weight,))]

    @property
    def others(self) -> list[int]:
        """Positions of the weight and the label, if there are any."""
        return [position for position in (self.weight, self.label) if position is not None]


def open_reader(
    path: str | Path,
    expected: Iterable[str],
    *,
    header: bool | None,
    separator: str | None,
    key: str | None,
    mapped: bool = False,
    allow_missing: bool = False,
) -> TableReader:
    """The reader of a file, by its suffix; `expected` are column names that identify a header.

    Where cells may be missing, a line of separators alone is a row.
    """
    path = Path(str(path)).expanduser()
    require_file(path)
    suffix = path.suffix.lower()
    if key is not None and suffix != ".npz":
        raise InvalidArgumentError(f"key= chooses an array of a .npz file, and {path} is not one")
    if suffix in _TEXT:
        how: dict[str, Any] = {"header": header, "separator": separator}
        return TextReader(path, expected, keep_empty=allow_missing, **how)
    if suffix in _ARRAYS:
        return ArrayReader(path, key, mapped=mapped)
    if suffix in _PARQUET:
        return ParquetReader(path)
    raise InvalidArgumentError(
        f"{path}: expected a file that ends in {format_list(SUFFIXES)}; got {suffix or 'no suffix'}"
    )


def open_table(
    path: str | Path,
    columns: Columns,
    label: str | int | None,
    weight: str | int | None,
    **options: Any,
) -> tuple[TableReader, Positions]:
    """The reader of a file, and the positions of the columns chosen by name or number.

    By default all columns of numbers except label and weight are features.
    """
    chosen = [columns] if isinstance(columns, str | int) else columns
    expected = [name for name in (*(chosen or ()), label, weight) if isinstance(name, str)]
    reader = open_reader(path, expected, **options)
    label_at = None if label is None else reader.position(label, "label column")
    weight_at = None if weight is None else reader.position(weight, "weight column")
    if label_at is not None and label_at == weight_at:
        raise InvalidArgumentError(
            f"{reader.path}: {reader.all_names[label_at]} is both the label and the weight; choose "
            "it as one of the two"
        )
    if chosen is None:
        features = [j for j in reader.numeric_columns() if j not in (label_at, weight_at)]
        if not features:
            hint = "; give the separator, for instance separator=';'"
            raise InvalidDataError(
                f"{reader.path} has no column of numbers to read; its columns are: "
                f"{format_list(reader.names, 20)}{hint if len(reader.names) == 1 else ''}"
            )
        return reader, Positions(features, label_at, weight_at)
    features = [reader.position(column) for column in chosen]
    if not features:
        raise InvalidArgumentError(
            f"{reader.path}: columns= chooses none; it has: {format_list(reader.names, 20)}"
        )
    twice = [reader.names[j] for j, count in Counter(features).items() if count > 1]
    if twice:
        raise InvalidArgumentError(f"{reader.path}: chosen more than once: {format_list(twice)}")
    for what, other in (("label", label_at), ("weight", weight_at)):
        if other is not None and other in features:
            raise InvalidArgumentError(
                f"{reader.path}: {reader.all_names[other]} is both the {what} and one of the "
                "columns to read; choose it as one of the two"
            )
    return reader, Positions(features, label_at, weight_at)


def match_columns(reader: TableReader, columns: Sequence[str]) -> list[int]:
    """Positions of columns by name, or in order where the file has no names."""
    known = {name: position for position, name in enumerate(reader.names)}
    missing = [name for name in columns if name not in known]
    if not missing:
        return [known[name] for name in columns]
    if reader.named:
        raise InvalidDataError(
            f"{reader.path} lacks the column{'s'[: len(missing) > 1]} {format_list(missing, 20)}; "
            f"it has: {format_list(reader.names, 20)}"
        )
    if len(reader.names) != len(columns):
        raise InvalidDataError(
            f"{reader.path} has no names for its {len(reader.names)} columns; expected these "
            f"{len(columns)}, in this order: {format_list(columns, 20)}"
        )
    return list(range(len(columns)))

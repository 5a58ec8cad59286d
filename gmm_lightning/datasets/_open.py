"""Which reader a file needs, and where its columns are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._arrays import ArraySource
from gmm_lightning.datasets._cells import listed
from gmm_lightning.datasets._parquet import ParquetSource
from gmm_lightning.datasets._source import Source, require_file
from gmm_lightning.datasets._text import TextSource
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

TEXT, ARRAYS, PARQUET = (".csv", ".tsv", ".txt"), (".npy", ".npz"), (".parquet",)


def opened(
    path: str | Path,
    expected: Iterable[str],
    *,
    header: bool | None,
    separator: str | None,
    key: str | None,
    mapped: bool = False,
) -> Source:
    """The reader of a file, by its suffix.

    Args:
        path: the file.
        expected: names of columns that a header would hold.
        header: of a text file.
        separator: of a text file.
        key: of a .npz file.
        mapped: map the arrays of a .npz file, rather than hold them.

    Raises:
        InvalidDataError: no such file, or one that cannot be read.
        InvalidArgumentError: an unknown suffix; the message lists the known ones.
    """
    path = Path(str(path)).expanduser()
    require_file(path)
    suffix = path.suffix.lower()
    if key is not None and suffix != ".npz":
        raise InvalidArgumentError(f"key= chooses an array of a .npz file, and {path} is none")
    if suffix in TEXT:
        return TextSource(path, expected, header=header, separator=separator)
    if suffix in ARRAYS:
        return ArraySource(path, key, mapped=mapped)
    if suffix in PARQUET:
        return ParquetSource(path)
    raise InvalidArgumentError(
        f"{path}: expected a file that ends in {listed((*TEXT, *ARRAYS, *PARQUET))}; "
        f"got {suffix or 'no suffix'}"
    )


def chosen_columns(
    source: Source,
    columns: Sequence[str | int] | None,
    label: int | None,
    weight: int | None = None,
) -> list[int]:
    """Where the columns to read stand; by default all that hold numbers, less label and weight.

    Raises:
        InvalidArgumentError: a column that is not there or has two parts to play.
        InvalidDataError: no column of numbers.
    """
    if label is not None and label == weight:
        raise InvalidArgumentError(
            f"{source.path}: {source.name_of(label)} is both the label and the weight; choose it "
            "as one of the two"
        )
    if columns is None:
        chosen = [j for j in source.numeric() if j not in (label, weight)]
        if not chosen:
            single = len(source.names) == 1
            hint = "; give the separator, for instance separator=';'" if single else ""
            raise InvalidDataError(
                f"{source.path} has no column of numbers to read; its columns are: "
                f"{listed(source.names)}{hint}"
            )
        return chosen
    if not columns:
        raise InvalidArgumentError(
            f"{source.path}: columns= chooses none; it has: {listed(source.names)}"
        )
    chosen = [source.position(column) for column in columns]
    twice = [source.names[j] for j in dict.fromkeys(chosen) if chosen.count(j) > 1]
    if twice:
        raise InvalidArgumentError(f"{source.path}: chosen more than once: {listed(twice)}")
    for what, other in (("label", label), ("weight", weight)):
        if other is not None and other in chosen:
            raise InvalidArgumentError(
                f"{source.path}: {source.name_of(other)} is both the {what} and one of the columns "
                "to read; choose it as one of the two"
            )
    return chosen


def counts_rows(column: NDArray[np.float64]) -> bool:
    """Whether a column reads 0, 1, 2, ... or 1, 2, 3, ... as programs number the rows."""
    return bool((column == np.arange(len(column)) + (column[0] == 1)).all())


def matched(source: Source, columns: tuple[str, ...]) -> list[int]:
    """Where the columns stand in a file: by name, or in order where it has no names.

    Raises:
        InvalidDataError: naming those that it lacks and those that it has.
    """
    missing = [name for name in columns if name not in source.names]
    if not missing:
        return [source.names.index(name) for name in columns]
    if source.named:
        raise InvalidDataError(
            f"{source.path} lacks the column{'s'[: len(missing) > 1]} {listed(missing)}; it has: "
            f"{listed(source.names)}"
        )
    if len(source.names) != len(columns):
        raise InvalidDataError(
            f"{source.path} has no names for its {len(source.names)} columns; expected these "
            f"{len(columns)}, in this order: {listed(columns)}"
        )
    return list(range(len(columns)))

"""The interface of readers of tables, one per format, and checks that they share."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from gmm_lightning._messages import format_error, format_list
from gmm_lightning.datasets._errors import DataErrors
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


class Block(NamedTuple):
    """Some rows: numbers `(n, D)`, and their labels as written in the file."""

    x: NDArray[Any]
    labels: list[Any] | None


class Selection(NamedTuple):
    """Columns to read, by position, and the errors in the rows read so far."""

    columns: Sequence[int]
    label: int | None
    errors: DataErrors

    def check(self) -> None:
        """Raise `InvalidDataError` for bad rows, and bad cells of the selection."""
        self.errors.check([*self.columns, *(() if self.label is None else (self.label,))])


class TableReader(ABC):
    """A table in a file, read block by block.

    Attributes:
        path: the file.
        names: its columns.
        named: whether the names are the file's own, or `x0, x1, ...`.
        unit: name of a row in messages.
        extra_names: further columns that can be labels or weights.
        unnamed: columns without a name among named ones.
        description: the layout of the file, where it was guessed.
        possible_header: the row that may hold names, though it was taken for numbers.
        random_access: whether a single row is read without reading others.
        in_memory: whether all rows are in memory already, in an array of their own.
    """

    path: Path
    names: tuple[str, ...]
    named: bool = False
    unit: str = "row"
    extra_names: tuple[str, ...] = ()
    unnamed: frozenset[int] = frozenset()
    description: str = ""
    possible_header: int | None = None
    random_access: bool = False
    in_memory: bool = False

    @abstractmethod
    def numeric_columns(self) -> list[int]:
        """The columns that hold numbers, as far as is known before reading all of them."""

    @abstractmethod
    def count_rows(self) -> int:
        """Number of rows."""

    @abstractmethod
    def blocks(self, selection: Selection, batch_rows: int, start: int = 0) -> Iterator[Block]:
        """The rows in order from `start` on, about `batch_rows` at a time.

        They are views if the file holds float32 or float64; bad cells are recorded.
        """

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names by position: those of the columns, then the others."""
        return (*self.names, *self.extra_names)

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each of `all_names`."""
        return {name: position for position, name in enumerate(self.all_names)}

    def select(
        self, columns: Sequence[int], label: int | None = None, optional: Sequence[int] = ()
    ) -> Selection:
        """Columns to read, by position; cells of the `optional` ones may be missing."""
        errors = DataErrors(self.path, self.all_names, self.unit, self.possible_header, optional)
        return Selection(columns, label, errors)

    def position(self, column: str | int, what: str = "column") -> int:
        """Position of a column, by name or by number; negative numbers count from the end.

        Raises:
            InvalidArgumentError: no such column; the message lists the columns.
        """
        if isinstance(column, bool) or not isinstance(column, str | int):
            raise InvalidArgumentError(
                f"a {what} is chosen by its name or its number, got {column!r}"
            )
        names, width = self.names if what == "column" else self.all_names, len(self.names)
        if isinstance(column, int):
            if not -width <= column < width:
                raise InvalidArgumentError(
                    f"{self.path}: there is no {what} number {column}; the {width} columns are "
                    f"numbered from 0: {format_list(names, 20)}"
                )
            return column % width
        at = self.positions.get(column, len(names))
        if at >= len(names):
            hint = "" if self.named or self.unit == "row" else " (no names in the first line)"
            raise InvalidArgumentError(
                f"{self.path}: there is no {what} {column!r}; the columns are: "
                f"{format_list(names, 20)}{hint}"
            )
        return at


def skip_rows(blocks: Iterator[Block], n: int) -> Iterator[Block]:
    """The rows after the first n."""
    for x, labels in blocks:
        yield Block(x[n:], labels and labels[n:])
        n = max(0, n - len(x))


def require_file(path: Path) -> None:
    """Refuse a path without a file, and a folder."""
    with reading(path):
        if path.is_dir():
            raise InvalidDataError(f"{path} is a folder; expected a file")
        if not path.exists():
            raise InvalidDataError(f"there is no file {path}")
        if not path.is_file():
            # It is read twice: once for its layout.
            raise InvalidDataError(f"{path} is not a regular file; write it to one first")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context that turns errors of the operating system into one sentence about the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InvalidDataError(
            f"{path} is not a text file in UTF-8 (byte 0x{byte:02x} cannot be read); if it is "
            "text, save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise InvalidDataError(
            f"{path} cannot be cut into cells ({error}); is a quotation mark missing?"
        ) from error
    except OSError as error:
        raise InvalidDataError(
            f"cannot read {path}: {error.strerror or format_error(error)}"
        ) from error


def require_unique(path: Path, names: Sequence[str]) -> None:
    """Refuse a table in which two columns have the same name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidDataError(
            f"{path}: column names must differ; more than one column is called {format_list(twice)}"
        )


def generated_names(width: int) -> tuple[str, ...]:
    """Names of columns without any: `x0, x1, ...`."""
    return tuple(f"x{j}" for j in range(width))

"""A file that holds a table: what every format offers, and how a file is opened."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from gmm_lightning.datasets._cells import listed
from gmm_lightning.datasets._faults import Faults
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


class Block(NamedTuple):
    """Some rows: numbers `(n, D)`, and their labels as they stand in the file."""

    x: NDArray[Any]
    labels: list[Any] | None

    def at(self, part: slice) -> Block:
        """Some of them."""
        return Block(self.x[part], None if self.labels is None else self.labels[part])


class Source(ABC):
    """A table in a file, read block by block.

    Attributes:
        path: the file.
        names: its columns.
        named: whether the names are the file's own, or `x0, x1, ...`.
        unit: what a row is called in messages.
        extra: further names that labels or weights may have.
        unnamed: columns without a name among named ones.
        described: how the file was understood, where that was a guess.
        suspect: the row that may hold names, though it was taken for numbers.
        at_random: whether a single row is read without reading others.
    """

    path: Path
    names: tuple[str, ...]
    named: bool = False
    unit: str = "row"
    extra: tuple[str, ...] = ()
    unnamed: frozenset[int] = frozenset()
    described: str = ""
    suspect: int | None = None
    at_random: bool = False

    @abstractmethod
    def numeric(self) -> list[int]:
        """The columns that hold numbers, as far as can be said before reading all of them."""

    @abstractmethod
    def blocks(
        self,
        columns: Sequence[int],
        label: int | None,
        rows: int,
        faults: Faults,
        start: int = 0,
    ) -> Iterator[Block]:
        """The rows in order from `start` on, about `rows` at a time; faults are recorded."""

    @abstractmethod
    def count(self) -> int:
        """How many rows there are."""

    def slices(
        self, columns: Sequence[int], label: int | None, rows: int, faults: Faults, start: int = 0
    ) -> Iterator[Block]:
        """As `blocks`, without a copy and in the file's own dtype where they can be had so."""
        return self.blocks(columns, label, rows, faults, start)

    def faults(self) -> Faults:
        """A record for what is wrong with this file."""
        return Faults(self.path, (*self.names, *self.extra), self.unit, self.suspect)

    def position(self, column: str | int, what: str = "column") -> int:
        """Where a column stands, by name or by number; negative numbers count from the end.

        Raises:
            InvalidArgumentError: there is none; the message lists those that exist.
        """
        known = listed(self.names if what == "column" else (*self.names, *self.extra))
        if isinstance(column, bool) or not isinstance(column, str | int):
            raise InvalidArgumentError(
                f"a {what} is chosen by its name or its number, got {column!r}"
            )
        if isinstance(column, int):
            width = len(self.names)
            if not -width <= column < width:
                raise InvalidArgumentError(
                    f"{self.path}: there is no {what} number {column}; the {width} columns are "
                    f"numbered from 0: {known}"
                )
            return column % width
        if column in self.names:
            return self.names.index(column)
        if what != "column" and column in self.extra:
            return len(self.names) + self.extra.index(column)
        hint = "" if self.named or self.unit == "row" else " (no names in the first line)"
        raise InvalidArgumentError(
            f"{self.path}: there is no {what} {column!r}; the columns are: {known}{hint}"
        )

    def name_of(self, column: int) -> str:
        """The name of a column at a position that `position` gave."""
        return (*self.names, *self.extra)[column]


def without_first(blocks: Iterator[Block], n: int) -> Iterator[Block]:
    """The rows after the first n."""
    for block in blocks:
        yield block.at(slice(n, None)) if n else block
        n = max(0, n - len(block.x))


def require_file(path: Path) -> None:
    """Refuse what is not a file.

    Raises:
        InvalidDataError: nothing there, or a folder.
    """
    with reading(path):
        if path.is_dir():
            raise InvalidDataError(f"{path} is a folder; expected a file")
        if not path.exists():
            raise InvalidDataError(f"there is no file {path}")
        if not path.is_file():
            # It is read twice: once to see how it is laid out.
            raise InvalidDataError(f"{path} is not a regular file; write it to one first")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system says into one sentence about the file.

    Raises:
        InvalidDataError: the file cannot be opened, read or decoded.
    """
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
        raise InvalidDataError(f"cannot read {path}: {error.strerror or error}") from error


def require_unique(path: Path, names: Sequence[str]) -> None:
    """Refuse a table in which a name does not tell the column.

    Raises:
        InvalidDataError: naming those that occur more than once.
    """
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InvalidDataError(
            f"{path}: column names must differ; more than one column is called {listed(twice)}"
        )


def generated_names(width: int) -> tuple[str, ...]:
    """The names of columns that have none."""
    return tuple(f"x{j}" for j in range(width))

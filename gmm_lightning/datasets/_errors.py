"""Bad cells and rows of a file, collected over blocks and reported in one sentence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._messages import format_list
from gmm_lightning.datasets._cells import DECIMAL_COMMA, is_missing, parse_number
from gmm_lightning.errors import InvalidDataError


class _Tally:
    """The number of bad rows, and the first of them."""

    def __init__(self, limit: int = 10) -> None:
        self.count, self.first, self._limit = 0, list[tuple[int, Any]](), limit

    def add(self, numbers: Sequence[int] | NDArray[np.int64], content: Any = None) -> None:
        self.count += len(numbers)
        room = self._limit - len(self.first)
        self.first += [(int(number), content) for number in numbers[:room]]

    def format(self, items: Iterable[Any], noun: str = "") -> str:
        """The first items, and the number of the others."""
        more = self.count - len(self.first)
        return ", ".join(map(str, items)) + (f" and {more} more{noun}" if more else "")


_Tallies = dict[int, _Tally]


def _count(tallies: _Tallies, column: int) -> int:
    return tallies[column].count if column in tallies else 0


class DataErrors:
    """A record of bad cells and bad rows.

    Args:
        path: the file, for messages.
        names: its columns.
        unit: name of a row in messages: a `line` of a text file, or a `row` counted from 0.
        possible_header: the row that may hold names, though it was taken for numbers.
        optional: columns of which a missing cell is no error.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        unit: str,
        possible_header: int | None = None,
        optional: Sequence[int] = (),
    ) -> None:
        self.path, self.names, self.unit = path, names, unit
        self.num_rows, self._possible_header = 0, possible_header
        self._optional = frozenset(optional)
        self._ragged = _Tally(3)
        self._text: defaultdict[int, _Tally] = defaultdict(_Tally)
        self._missing: defaultdict[int, _Tally] = defaultdict(_Tally)
        self._infinite: defaultdict[int, _Tally] = defaultdict(_Tally)

    def add_ragged(self, row: int, num_cells: int) -> None:
        """Record a row with another number of cells."""
        self._ragged.add([row], num_cells)

    def add_cell(self, column: int, row: int, cell: str) -> None:
        """Record a cell that is not a finite number."""
        value = parse_number(cell)
        if is_missing(cell) or (value is not None and math.isnan(value)):
            self._missing[column].add([row])
        elif value is None:
            self._text[column].add([row], cell)
        else:
            self._infinite[column].add([row])

    def add_block(self, x: NDArray[Any], columns: Sequence[int], first_row: int) -> None:
        """Record the entries of numbers `(n, len(columns))` that are not finite."""
        self.num_rows += len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            # A sum is finite only if every term is; where it overflows, each entry is looked at.
            if np.isfinite(x.sum()):
                return
        for is_bad, tallies in ((np.isnan, self._missing), (np.isinf, self._infinite)):
            found, rows = is_bad(x.T).nonzero()
            bad, starts = np.unique(found, return_index=True)
            for j, numbers in zip(bad, np.split(first_row + rows, starts[1:]), strict=False):
                tallies[columns[j]].add(numbers)

    def is_text(self, column: int) -> bool:
        """Whether less than half of the cells that are not missing are numbers."""
        missing = _count(self._missing, column)
        return 2 * _count(self._text, column) > self.num_rows - missing

    def is_empty(self, column: int) -> bool:
        """Whether all cells are missing."""
        return 0 < self.num_rows == _count(self._missing, column)

    def check(self, columns: Sequence[int]) -> None:
        """Raise `InvalidDataError` for bad rows, then for bad values of these columns."""
        if self._ragged.count:
            raise InvalidDataError(f"{self.path}: {self._describe_ragged()}")
        needed = [column for column in columns if column not in self._optional]
        for tallies, own, describe in (
            (self._text, columns, self._describe_text),
            (self._missing, needed, self._describe_missing),
            (self._infinite, columns, self._describe_infinite),
        ):
            found = {column: tallies[column] for column in own if column in tallies}
            if found:
                raise InvalidDataError(f"{self.path}: {describe(found)}")

    def _describe_ragged(self) -> str:
        rows = (f"{self.unit} {row} has {count}" for row, count in self._ragged.first)
        listed = self._ragged.format(rows, " lines differ")
        return f"expected {len(self.names)} cells in every {self.unit}; {listed}"

    def _describe_text(self, found: _Tallies) -> str:
        column = min(found, key=lambda c: found[c].first[0][0])
        row, cell = found[column].first[0]
        count = sum(tally.count for tally in found.values()) - 1
        more = f", and {count} more such cell{'s'[: count > 1]}" if count else ""
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        hint = "; correct it, or choose other columns with columns="
        if DECIMAL_COMMA.fullmatch(cell):
            hint = "; write numbers with a decimal point"
        elif len(self.names) == 1:
            hint = "; only one column was found: give the separator, for instance separator=';'"
        elif row == self._possible_header:
            hint = "; if this line holds the names of the columns: header=true"
        name = self.names[column]
        return f"{self.unit} {row}, column {name}: expected a number, got {shown!r}{more}{hint}"

    def _describe_missing(self, found: _Tallies) -> str:
        first = min(tally.first[0][0] for tally in found.values())
        counts = format_list((f"{self.names[c]} ({t.count})" for c, t in found.items()), 20)
        return (
            f"missing values, by column of {self.num_rows} rows: {counts}; the first in "
            f"{self.unit} {first}; drop these rows by missing=drop, or use their other cells by "
            "missing=em"
        )

    def _describe_infinite(self, found: _Tallies) -> str:
        columns = (
            f"column {self.names[c]} in {self.unit}(s) {t.format(row for row, _ in t.first)}"
            for c, t in found.items()
        )
        return f"infinite values: {format_list(columns, 5)}; drop these rows, or correct them"

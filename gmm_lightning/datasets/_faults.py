"""What is wrong with the rows of a file, gathered over blocks and said in one sentence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._cells import (
    DECIMAL_COMMA,
    is_missing,
    is_unlabelled,
    listed,
    number,
)
from gmm_lightning.errors import InvalidDataError

# Rows that a message names.
NAMED = 10


@dataclass
class ColumnFaults:
    """What is wrong with one column."""

    missing: int = 0
    first_missing: int = 0
    text: int = 0
    first_text: tuple[int, str] = (0, "")
    infinite: list[int] = field(default_factory=list)
    num_infinite: int = 0


class Faults:
    """A record of bad cells and bad rows.

    Args:
        path: the file, for messages.
        names: its columns.
        unit: what a row is called: a `line` of a text file, or a `row` counted from 0.
        suspect: the row that may hold names, though it was taken for numbers.
    """

    def __init__(
        self, path: Path, names: Sequence[str], unit: str, suspect: int | None = None
    ) -> None:
        self.path, self.names, self.unit, self.suspect = path, names, unit, suspect
        self.rows = 0
        self.columns: defaultdict[int, ColumnFaults] = defaultdict(ColumnFaults)
        self.ragged: list[tuple[int, int]] = []
        self.num_ragged = 0

    def add_ragged(self, row: int, found: int) -> None:
        """A row of another number of cells."""
        self.num_ragged += 1
        if len(self.ragged) < NAMED:
            self.ragged.append((row, found))

    def add_cell(self, column: int, row: int, cell: str) -> None:
        """A cell that is not a finite number."""
        value = number(cell)
        if is_missing(cell) or (value is not None and math.isnan(value)):
            self._add_missing(column, row)
        elif value is None:
            found = self.columns[column]
            found.first_text = found.first_text if found.text else (row, cell)
            found.text += 1
        else:
            self._add_infinite(column, [row], 1)

    def add_label(self, column: int, row: int, value: Any) -> None:
        """A label, which is counted if it is not there."""
        if is_unlabelled(value):
            self._add_missing(column, row)

    def add_block(self, x: NDArray[np.float64], columns: Sequence[int], first_row: int) -> None:
        """The entries of a block of numbers that are not finite."""
        self.rows += len(x)
        if np.isfinite(x).all():
            return
        for j, column in enumerate(columns):
            nan, infinite = np.isnan(x[:, j]).nonzero()[0], np.isinf(x[:, j]).nonzero()[0]
            if len(nan):
                self._add_missing(column, first_row + int(nan[0]), len(nan))
            if len(infinite):
                rows = [first_row + int(i) for i in infinite[:NAMED]]
                self._add_infinite(column, rows, len(infinite))

    def _add_missing(self, column: int, row: int, count: int = 1) -> None:
        found = self.columns[column]
        found.first_missing = found.first_missing if found.missing else row
        found.missing += count

    def _add_infinite(self, column: int, rows: list[int], count: int) -> None:
        found = self.columns[column]
        found.infinite = (found.infinite + rows)[:NAMED]
        found.num_infinite += count

    def is_text(self, column: int) -> bool:
        """Whether less than half of the cells that are there are numbers."""
        found = self.columns[column]
        return 2 * found.text > self.rows - found.missing

    def is_empty(self, column: int) -> bool:
        """Whether no cell is there."""
        return 0 < self.rows == self.columns[column].missing

    def check(self, columns: Sequence[int]) -> None:
        """Refuse bad rows, and bad cells of these columns.

        Raises:
            InvalidDataError: the gravest fault: the shape of the rows, then text, then missing
                values, then infinite ones.
        """
        if self.ragged:
            raise InvalidDataError(f"{self.path}: {self._ragged()}")
        found = {column: self.columns[column] for column in columns if column in self.columns}
        for say in (self._text, self._missing, self._infinite):
            sentence = say(found)
            if sentence:
                raise InvalidDataError(f"{self.path}: {sentence}")

    def _ragged(self) -> str:
        width = len(self.names)
        named = listed(
            (f"{self.unit} {row} has {found}" for row, found in self.ragged[:3]), limit=3
        )
        more = self.num_ragged - len(self.ragged[:3])
        rest = f" and {more} more lines differ" if more else ""
        return f"expected {width} cells in every {self.unit}; {named}{rest}"

    def _text(self, found: dict[int, ColumnFaults]) -> str:
        bad = {c: f for c, f in found.items() if f.text}
        if not bad:
            return ""
        column = min(bad, key=lambda c: bad[c].first_text[0])
        row, cell = bad[column].first_text
        count = sum(f.text for f in bad.values()) - 1
        more = f", and {count} more such cell{'s'[: count > 1]}" if count else ""
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        hint = "; correct it, or choose other columns with columns="
        if DECIMAL_COMMA.fullmatch(cell):
            hint = "; write numbers with a decimal point"
        elif len(self.names) == 1:
            hint = "; only one column was found: give the separator, for instance separator=';'"
        elif row == self.suspect:
            hint = "; if this line holds the names of the columns: header=true"
        name = self.names[column]
        return f"{self.unit} {row}, column {name}: expected a number, got {shown!r}{more}{hint}"

    def _missing(self, found: dict[int, ColumnFaults]) -> str:
        counts = {c: f.missing for c, f in found.items() if f.missing}
        if not counts:
            return ""
        first = min(found[c].first_missing for c in counts)
        named = listed(f"{self.names[c]} ({count})" for c, count in counts.items())
        return (
            f"missing values, by column of {self.rows} rows: {named}; the first in {self.unit} "
            f"{first}; drop these rows, or impute them first"
        )

    def _infinite(self, found: dict[int, ColumnFaults]) -> str:
        bad = {c: f for c, f in found.items() if f.num_infinite}
        named = listed(
            (f"column {self.names[c]} in {self.unit}(s) {self._rows(f)}" for c, f in bad.items()),
            limit=5,
        )
        return f"infinite values: {named}; drop these rows, or correct them" if bad else ""

    @staticmethod
    def _rows(found: ColumnFaults) -> str:
        more = found.num_infinite - len(found.infinite)
        return ", ".join(map(str, found.infinite)) + (f" and {more} more" if more else "")

"""Rows of a text file: numpy's parser where all is well, cell by cell where it is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np

from gmm_lightning.datasets._cells import is_unlabelled, number
from gmm_lightning.datasets._faults import Faults
from gmm_lightning.datasets._index import Index, Place, build_index
from gmm_lightning.datasets._layout import Record, find_layout, open_text, records, shown
from gmm_lightning.datasets._source import Block, Source, reading, without_first

# Cells that are held as text at a time.
CELLS = 1 << 22


class TextSource(Source):
    """A .csv, .tsv or .txt file.

    Args:
        path: the file.
        expected: names of columns; a first record that holds all of them is a header.
        header: whether its first record holds names; None: guess.
        separator: between cells; None: guess.
    """

    unit = "line"

    def __init__(
        self,
        path: Path,
        expected: Iterable[str] = (),
        *,
        header: bool | None = None,
        separator: str | None = None,
    ) -> None:
        self.path = path
        self.layout = find_layout(path, expected, header=header, separator=separator)
        self.names, self.named = self.layout.names, self.layout.named
        self.unnamed = self.layout.unnamed
        names = f"names in line {self.layout.first}" if self.named else "no line of names"
        self.described = f" ({shown(self.layout.separator)} between cells, {names})"
        self.suspect = None if self.named else self.layout.first

    def numeric(self) -> list[int]:
        """The columns that hold numbers in the head of the file."""
        return list(self.layout.numeric)

    @cached_property
    def index(self) -> Index:
        """Where its rows begin."""
        with reading(self.path):
            return build_index(self.path, self.layout)

    def count(self) -> int:
        """Rows found by a pass over the bytes."""
        return self.index.num_rows

    def blocks(
        self,
        columns: Sequence[int],
        label: int | None,
        rows: int,
        faults: Faults,
        start: int = 0,
    ) -> Iterator[Block]:
        """Up to `rows` lines at a time, fewer where lines are long."""
        place = self.index.before(start) if start else None
        blocks = self._blocks(columns, label, rows, faults, place)
        return without_first(blocks, start - place.row) if place else blocks

    def _blocks(
        self,
        columns: Sequence[int],
        label: int | None,
        rows: int,
        faults: Faults,
        place: Place | None,
    ) -> Iterator[Block]:
        rows = max(1, min(rows, CELLS // len(self.names)))
        with reading(self.path), open_text(self.path, place.offset if place else 0) as handle:
            line = place.line if place else self.layout.skip
            for _ in islice(handle, 0 if place else line):
                pass
            while lines := list(islice(handle, rows)):
                if any('"' in text for text in lines):
                    # Quoted cells may span lines, and so blocks of lines.
                    quoted = records(chain(lines, handle), self.layout.separator, line)
                    while part := list(islice(quoted, rows)):
                        yield self._cut(part, columns, label, faults)
                    return
                block = self._fast(lines, columns, label)
                if block is None:
                    part = records(lines, self.layout.separator, line)
                    block = self._exact(part, columns, label, faults)
                else:
                    faults.rows += len(block.x)
                line += len(lines)
                yield block

    def _fast(self, lines: list[str], columns: Sequence[int], label: int | None) -> Block | None:
        """All cells finite and all rows of one width, or None."""
        separator, width = self.layout.separator, len(self.names)
        lines = [text for text in lines if not text.isspace()]
        if not lines:
            return Block(np.empty((0, len(columns))), None if label is None else [])
        if separator is None:
            regular = all(len(text.split()) == width for text in lines)
        else:
            regular = all(text.count(separator) == width - 1 for text in lines)
        if not regular:
            return None
        labels = None
        if label is not None:
            labels = [text.split(separator)[label].strip() for text in lines]
            if any(map(is_unlabelled, set(labels))):
                return None
        try:
            x = np.loadtxt(
                lines, delimiter=separator, comments=None, usecols=columns, ndmin=2, dtype=float
            )
        except ValueError:
            return None
        return Block(x, labels) if np.isfinite(x).all() else None

    def _cut(
        self, part: list[Record], columns: Sequence[int], label: int | None, faults: Faults
    ) -> Block:
        """Cells already cut: all at once where they are right."""
        if all(len(cells) == len(self.names) for _, cells in part):
            flat = [cells[j] for _, cells in part for j in columns]
            labels = None if label is None else [cells[label] for _, cells in part]
            unlabelled = any(map(is_unlabelled, set(labels or ())))
            try:
                x = np.fromiter(map(float, flat), np.float64, len(flat))
            except ValueError:
                x = np.full(1, np.nan)
            if np.isfinite(x).all() and not unlabelled and "_" not in "".join(flat):
                faults.rows += len(part)
                return Block(x.reshape(len(part), -1), labels)
        return self._exact(part, columns, label, faults)

    def _exact(
        self, part: Iterable[Record], columns: Sequence[int], label: int | None, faults: Faults
    ) -> Block:
        """Cell by cell: a bad one becomes NaN and is recorded, a bad row is recorded and left."""
        width, values, labels = len(self.names), [], []
        for line, cells in part:
            if len(cells) != width:
                faults.add_ragged(line, len(cells))
                continue
            faults.rows += 1
            for j in columns:
                value = number(cells[j])
                if value is None or not math.isfinite(value):
                    faults.add_cell(j, line, cells[j])
                    value = math.nan
                values.append(value)
            if label is not None:
                faults.add_label(label, line, cells[label])
                labels.append(cells[label])
        x = np.array(values, dtype=np.float64).reshape(-1, len(columns))
        return Block(x, None if label is None else labels)

"""Rows of a text file: by numpy's parser if all cells are valid, else cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gmm_lightning.datasets._cells import parse_number
from gmm_lightning.datasets._index import Index, Place, build_index
from gmm_lightning.datasets._layout import (
    Record,
    find_layout,
    format_separator,
    open_text,
    read_lines,
    read_records,
)
from gmm_lightning.datasets._reader import Block, Selection, TableReader, reading, skip_rows

# Cells that are held as text at a time.
_MAX_CELLS = 1 << 22


class TextReader(TableReader):
    """A .csv, .tsv or .txt file; the arguments are those of `find_layout`."""

    unit = "line"

    def __init__(self, path: Path, expected: Iterable[str], **options: Any) -> None:
        self.path = path
        self.layout = layout = find_layout(path, expected, **options)
        self.names, self.named, self.unnamed = layout.names, layout.named, layout.unnamed
        names = f"names in line {layout.first_line}" if self.named else "no line of names"
        self.description = f" ({format_separator(layout.separator)} between cells, {names})"
        self.possible_header = None if self.named else layout.first_line

    def numeric_columns(self) -> list[int]:
        """The columns that hold numbers in the head of the file."""
        return list(self.layout.numeric)

    @cached_property
    def index(self) -> Index:
        """Index of the places where rows begin."""
        with reading(self.path):
            return build_index(self.path, self.layout)

    def count_rows(self) -> int:
        """Number of rows, by a pass over the lines."""
        return self.index.num_rows

    def blocks(self, selection: Selection, batch_rows: int, start: int = 0) -> Iterator[Block]:
        """Blocks of up to `batch_rows` lines, fewer where lines are long."""
        place = self.index.before(start) if start else Place(0, 0, 0)
        skip = 0 if start else self.layout.skip
        return skip_rows(self._blocks(selection, batch_rows, place, skip), start - place.row)

    def _blocks(
        self, selection: Selection, batch_rows: int, place: Place, skip: int
    ) -> Iterator[Block]:
        num_lines = max(1, min(batch_rows, _MAX_CELLS // len(self.names)))
        line = place.line + skip
        with reading(self.path), open_text(self.path, place.offset) as file:
            rest = read_lines(file, place.line)
            for _ in islice(rest, skip):
                pass
            while lines := list(islice(rest, num_lines)):
                if any('"' in text for text in lines):
                    # Quoted cells may span lines, and so blocks of lines.
                    quoted = self._records(chain(lines, rest), line)
                    while records := list(islice(quoted, num_lines)):
                        yield self._parse_cells(records, selection)
                    return
                block = self._parse_lines(lines, selection)
                if block is None:
                    block = self._parse_cells(self._records(lines, line), selection)
                line += len(lines)
                yield block

    def _records(self, lines: Iterable[str], skipped: int) -> Iterator[Record]:
        layout = self.layout
        return read_records(lines, layout.separator, skipped, keep_empty=layout.keep_empty)

    def _parse_lines(self, lines: list[str], selection: Selection) -> Block | None:
        """A block of all rows, or None if their widths differ or a cell is not finite."""
        separator, width = self.layout.separator, len(self.names)
        columns, label, errors = selection
        lines = [text for text in lines if text.strip(self.layout.blank)]
        if separator is None:
            regular = all(len(text.split()) == width for text in lines)
        else:
            regular = all(text.count(separator) == width - 1 for text in lines)
        if not regular or not lines:
            return None
        labels = None
        if label is not None:
            labels = [text.split(separator)[label].strip() for text in lines]
        try:
            x = np.loadtxt(
                lines, delimiter=separator, comments=None, usecols=columns, ndmin=2, dtype=float
            )
        except ValueError:
            return None
        if not np.isfinite(x).all() or len(x) < len(lines):
            return None
        errors.num_rows += len(x)
        return Block(x, labels)

    def _parse_cells(self, records: Iterable[Record], selection: Selection) -> Block:
        """A block, cell by cell: bad ones are recorded and NaN, bad rows recorded and left out."""
        columns, label, errors = selection
        width, values, labels = len(self.names), [], []
        for line, cells in records:
            if len(cells) != width:
                errors.add_ragged(line, len(cells))
                continue
            errors.num_rows += 1
            for j in columns:
                value = parse_number(cells[j])
                if value is None or not math.isfinite(value):
                    errors.add_cell(j, line, cells[j])
                    value = math.nan
                values.append(value)
            if label is not None:
                labels.append(cells[label])
        x = np.array(values, dtype=np.float64).reshape(-1, len(columns))
        return Block(x, None if label is None else labels)

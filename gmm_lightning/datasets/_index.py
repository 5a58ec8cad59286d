"""Index of the row starts of a text file, so that reading can start in its middle."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from gmm_lightning.datasets._layout import Layout, read_lines, read_records

# Rows between two stored places.
_EVERY = 1 << 12


class Place(NamedTuple):
    """A row with the byte at which reading it starts and the lines before it."""

    row: int
    offset: int
    line: int


@dataclass(frozen=True)
class Index:
    """Places in a text file, and its number of rows."""

    num_rows: int
    places: tuple[Place, ...]

    def before(self, row: int) -> Place:
        """The last stored place that is not after a row."""
        return self.places[min(row // _EVERY, len(self.places) - 1)]


def build_index(path: Path, layout: Layout) -> Index:
    """The index of a file: its number of rows and every `_EVERY`-th place, by one pass over it.

    Blank lines are not rows. From the first quotation mark on, a row may span lines, and the file
    is cut into cells to find the rows.
    """
    blank, keep_empty = layout.blank, layout.keep_empty
    with path.open("rb") as file:
        offset, line = len(BOM_UTF8) if file.read(len(BOM_UTF8)) == BOM_UTF8 else 0, 0
        file.seek(offset)
        text = TextIOWrapper(file, encoding="utf-8", newline="")

        def lines() -> Iterator[str]:
            nonlocal offset, line
            for read in read_lines(text):
                offset, line = offset + len(read.encode()), line + 1
                yield read

        def rows() -> Iterator[object]:
            for read in source:
                if '"' in read:
                    rest = chain([read], source)
                    yield from read_records(rest, layout.separator, keep_empty=keep_empty)
                elif read.strip(blank):
                    yield read

        source = lines()
        for _ in islice(source, layout.skip):
            pass
        places, num_rows = [Place(0, offset, line)], 0
        for _ in rows():
            num_rows += 1
            if num_rows % _EVERY == 0:
                places.append(Place(num_rows, offset, line))
    return Index(num_rows, tuple(places))

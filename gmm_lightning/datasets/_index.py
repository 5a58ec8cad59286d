"""Where the rows of a text file begin, so that reading can start in its middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._layout import Layout, records

# Rows between two places that are remembered, and bytes looked at together.
EVERY, CHUNK = 1 << 12, 1 << 22
BOM = b"\xef\xbb\xbf"
LINE_FEED, RETURN = b"\n"[0], b"\r"[0]


class Place(NamedTuple):
    """A row with the byte at which reading it starts and the lines before it."""

    row: int
    offset: int
    line: int


@dataclass(frozen=True)
class Index:
    """Places in a text file, and how many rows it has."""

    num_rows: int
    places: tuple[Place, ...]

    def before(self, row: int) -> Place:
        """The last remembered place that is not after a row."""
        return self.places[min(row // EVERY, len(self.places) - 1)]


def build_index(path: Path, layout: Layout) -> Index:
    """Count rows and remember every `EVERY`-th, in one pass over the bytes.

    Blank lines are no rows. Where a cell is quoted, a row may span lines, and the file is cut
    into cells to find them.
    """
    with path.open("rb") as file:
        start = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(start)
        first = Place(0, start, 0)
        if layout.skip:
            ends = islice(line_ends(file, start), layout.skip - 1, layout.skip)
            first = Place(0, next(ends, path.stat().st_size), layout.skip)
        file.seek(first.offset)
        index = plain_index(file, layout, first)
        if index is None:
            file.seek(first.offset)
            index = quoted_index(file, layout, first)
    return index


def line_ends(file: BinaryIO, offset: int) -> Iterator[int]:
    """The offset after each line, from here on."""
    for chunk in whole_lines(file):
        yield from (offset + ends(chunk)).tolist()
        offset += len(chunk)


def plain_index(file: BinaryIO, layout: Layout, first: Place) -> Index | None:
    """The places in a file without quotes; None at the first quote."""
    content = np.ones(256, dtype=bool)
    content[list(b" \t\r\n\v\f" + (layout.separator or "").encode()[:1])] = False
    places, row, offset, line = [first], *first
    for chunk in whole_lines(file):
        if b'"' in chunk:
            return None
        data = np.frombuffer(chunk, dtype=np.uint8)
        stops = ends(chunk)
        starts = np.concatenate([[0], stops[:-1]])
        full = content[data[starts]]
        for i in np.flatnonzero(~full):
            full[i] = content[data[starts[i] : stops[i]]].any()
        at = np.flatnonzero(full)
        due = np.arange(-row % EVERY, len(at), EVERY)
        found = zip((row + due).tolist(), at[due].tolist(), strict=True)
        places += [Place(r, offset + int(starts[i]), line + i) for r, i in found if r > 0]
        row, offset, line = row + len(at), offset + len(chunk), line + len(stops)
    return Index(row, tuple(places))


def quoted_index(file: BinaryIO, layout: Layout, first: Place) -> Index:
    """The places in a file with quoted cells, which may hold ends of lines."""
    _, offset, line = first
    places, row = [first], 0

    def lines() -> Iterator[str]:
        nonlocal offset, line
        for raw in file:
            offset, line = offset + len(raw), line + 1
            yield raw.decode("utf-8").replace("\r\n", "\n")

    for _ in records(lines(), layout.separator, line):
        row += 1
        if row % EVERY == 0:
            places.append(Place(row, offset, line))
    return Index(row, tuple(places))


def whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file in large pieces that end where a line does."""
    kept = b""
    while chunk := file.read(CHUNK):
        chunk = kept + chunk
        # The last byte may be the first half of an end of two bytes.
        cut = max(chunk.rfind(b"\n"), chunk.rfind(b"\r", 0, len(chunk) - 1)) + 1
        kept = chunk[cut:]
        if cut:
            yield chunk[:cut]
    if kept:
        yield kept


def ends(chunk: bytes) -> NDArray[np.int64]:
    """The offset after each line of a piece; the last line may lack its end."""
    data = np.frombuffer(chunk, dtype=np.uint8)
    is_end = data == LINE_FEED
    if b"\r" in chunk:
        # A return ends a line of its own unless a line feed follows.
        lone = data == RETURN
        lone[:-1] &= data[1:] != LINE_FEED
        is_end = is_end | lone
    found = np.flatnonzero(is_end) + 1
    return found if len(found) and found[-1] == len(chunk) else np.append(found, len(chunk))

"""How a text file is laid out: its separator, its header and its columns."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TextIO

from gmm_lightning.datasets._cells import DECIMAL_COMMA, is_missing, mostly_numeric, number
from gmm_lightning.datasets._source import generated_names, reading, require_unique
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

# The part of a file from which its layout is guessed.
HEAD_LINES, HEAD_CHARACTERS = 1000, 1 << 18
# None: any white space.
SEPARATORS: tuple[str | None, ...] = (",", ";", "\t", "|", None)
WORDS = {
    "comma": ",",
    "semicolon": ";",
    "tab": "\t",
    "\\t": "\t",
    "pipe": "|",
    "whitespace": None,
    "space": None,
    " ": None,
}
Record = tuple[int, list[str]]


@dataclass(frozen=True)
class Layout:
    """What has to be known to read a text file.

    Attributes:
        separator: between cells; None for white space.
        names: one per column.
        named: whether the first record holds them.
        skip: lines before the first row.
        first: the line of the first record.
        numeric: columns that look like numbers.
        unnamed: columns to which the header gives no name.
    """

    separator: str | None
    names: tuple[str, ...]
    named: bool
    skip: int
    first: int
    numeric: tuple[int, ...]
    unnamed: frozenset[int]


def open_text(path: Path, offset: int = 0) -> TextIO:
    """A text file from a byte on, without its byte order mark, lines ending in a newline."""
    file = path.open("rb")
    file.seek(offset)
    return TextIOWrapper(file, encoding="utf-8-sig")


def records(lines: Iterable[str], separator: str | None, line: int = 0) -> Iterator[Record]:
    """Stripped cells of every record that is not blank, with the number of its first line.

    Raises:
        csv.Error: a quoted cell that does not end.
    """
    if separator is None:
        for text in lines:
            line += 1
            cells = text.split()
            if '"' in text:
                plain = text.strip().replace("\t", " ")
                cells = next(csv.reader([plain], delimiter=" ", skipinitialspace=True))
            if cells:
                yield line, cells
        return
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    before = line
    try:
        for cells in reader:
            start, before = before + 1, line + reader.line_num
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield start, stripped
    except csv.Error as error:
        raise csv.Error(f"line {before + 1}: {error}") from error


def given_separator(separator: str | None) -> str | None:
    """A separator as a character, from a character or a word.

    Raises:
        InvalidArgumentError: neither.
    """
    if isinstance(separator, str) and separator in WORDS:
        return WORDS[separator]
    given = separator if isinstance(separator, str) else ""
    if len(given) != 1 or given.isalnum() or given in '"+-.\r\n':
        raise InvalidArgumentError(
            "separator must be a single character (not a letter, digit, quote or sign), or one of "
            f"comma, semicolon, tab, pipe, whitespace; got {separator!r}"
        )
    return given


def shown(separator: str | None) -> str:
    """A separator as it would be typed."""
    return {None: "whitespace", "\t": "tab"}.get(separator, f"'{separator}'")


def find_layout(
    path: Path, expected: Iterable[str], *, header: bool | None, separator: str | None
) -> Layout:
    """Look at the head of a text file.

    Args:
        path: the file.
        expected: names of columns; a first record that holds all of them is a header.
        header: whether the first record holds names; None: guess.
        separator: between cells; None: guess.

    Raises:
        InvalidDataError: an empty file, only a header, a separator that does not occur, names
            that are not unique.
        InvalidArgumentError: no such separator.
    """
    if header is not None and not isinstance(header, bool):
        raise InvalidArgumentError(f"header must be true, false or null, got {header!r}")
    with reading(path), open_text(path) as handle:
        lines, size = [], 0
        for text in islice(handle, HEAD_LINES):
            lines.append(text)
            size += len(text)
            if size > HEAD_CHARACTERS and len(lines) > 2:
                break
        whole = not handle.read(1)
        chosen = _guessed(lines) if separator is None else given_separator(separator)
        rows = _sample(lines, chosen, whole=whole)
    if not rows:
        raise InvalidDataError(f"{path} is empty")
    width = len(rows[0][1])
    if separator is not None and max(len(cells) for _, cells in rows) == 1:
        other = _guessed(lines)
        if max(len(cells) for _, cells in _sample(lines, other, whole=whole)) > 1:
            raise InvalidDataError(
                f"{path}: the separator {shown(chosen)} does not occur; it looks separated by "
                f"{shown(other)}: leave separator away"
            )
    first = rows[0][1]
    named = _is_header([cells for _, cells in rows], set(expected)) if header is None else header
    body = rows[1:] if named else rows
    if not body:
        raise InvalidDataError(f"{path} has a header and no rows")
    names, unnamed = generated_names(width), frozenset[int]()
    if named:
        unnamed = frozenset(j for j, name in enumerate(first) if not name)
        names = tuple(name or names[j] for j, name in enumerate(first))
        require_unique(path, names)
    columns = range(width)
    return Layout(
        separator=chosen,
        names=names,
        named=named,
        skip=_lines_of_first(lines, chosen) if named else 0,
        first=rows[0][0],
        numeric=tuple(
            j
            for j in columns
            if mostly_numeric(cells := [c[j] for _, c in body if j < len(c)])
            or all(map(is_missing, cells))
        ),
        unnamed=unnamed,
    )


def _sample(lines: list[str], separator: str | None, *, whole: bool) -> list[Record]:
    rows = list(records(lines, separator))
    # The last record of a part of a file may be cut within a quoted cell.
    return rows if whole or len(rows) < 3 else rows[:-1]


def _lines_of_first(lines: list[str], separator: str | None) -> int:
    """How many lines the first record takes, with the blank ones before it."""
    taken = 0

    def counted() -> Iterator[str]:
        nonlocal taken
        for text in lines:
            taken += 1
            yield text

    next(records(counted(), separator))
    return taken


def _guessed(lines: list[str]) -> str | None:
    """The separator that cuts most rows into equally many cells, most of them numbers."""
    best, choice = 0.0, SEPARATORS[0]
    for separator in SEPARATORS:
        try:
            rows = [cells for _, cells in records(lines, separator)]
        except csv.Error:
            continue
        if not rows:
            continue
        (width, count), *_ = Counter(map(len, rows)).most_common(1)
        if width < 2:
            continue
        cells = [cell for row in rows[1:] or rows for cell in row if not is_missing(cell)]
        numbers = sum(number(c) is not None or bool(DECIMAL_COMMA.fullmatch(c)) for c in cells)
        score = count / len(rows) * (0.01 + numbers / max(len(cells), 1))
        if score > best:
            best, choice = score, separator
    return choice


def _is_header(rows: list[list[str]], expected: set[str]) -> bool:
    """Whether the first row names columns of numbers, more often than it holds a number."""
    first, body = rows[0], rows[1:]
    if expected and expected <= set(first):
        return True
    if not body:
        return not any(number(cell) is not None for cell in first)
    votes = [
        number(cell) is None
        for j, cell in enumerate(first)
        if not is_missing(cell) and mostly_numeric(row[j] for row in body if j < len(row))
    ]
    return 2 * sum(votes) > len(votes)

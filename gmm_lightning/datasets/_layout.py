"""The layout of a text file: its separator, its header and its columns."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from itertools import dropwhile, islice
from pathlib import Path
from typing import TextIO

from gmm_lightning.datasets._cells import (
    DECIMAL_COMMA,
    is_missing,
    is_mostly_numeric,
    parse_number,
)
from gmm_lightning.datasets._reader import generated_names, reading, require_unique
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

# The part of a file from which its layout is guessed.
_HEAD_LINES, _HEAD_CHARACTERS = 1000, 1 << 18
# A line of a million columns has fewer characters.
_LONGEST_LINE = 1 << 25
# None: any white space.
_SEPARATORS: tuple[str | None, ...] = (",", ";", "\t", "|", None)
_WORDS = {
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
    """The layout of a text file.

    Attributes:
        separator: between cells; None for white space.
        names: one per column.
        named: whether the first record holds them.
        skip: lines before the first row.
        first_line: of the first record.
        numeric: columns that look like numbers.
        unnamed: columns without a name in the header.
        keep_empty: whether a record of empty cells is a row; otherwise it is a blank line.
    """

    separator: str | None
    names: tuple[str, ...]
    named: bool
    skip: int
    first_line: int
    numeric: tuple[int, ...]
    unnamed: frozenset[int]
    keep_empty: bool = False

    @property
    def blank(self) -> str:
        """Characters of which lines that are no rows consist."""
        separator = self.separator or ""
        blank = f" \t\r\n\v\f{separator}"
        return blank.replace(separator, "") if self.keep_empty and separator else blank


def open_text(path: Path, offset: int = 0) -> TextIO:
    """A text file opened at a byte, without its byte order mark, lines ending in a newline."""
    file = path.open("rb")
    file.seek(offset)
    return TextIOWrapper(file, encoding="utf-8-sig")


def read_lines(file: TextIO, skipped: int = 0) -> Iterator[str]:
    """Lines of a text file, none of them too long to be a row.

    Raises:
        InvalidDataError: a line that is; no more of it is read than that takes.
    """
    lines = iter(partial(file.readline, _LONGEST_LINE), "")
    for line, text in enumerate(lines, skipped + 1):
        if len(text) == _LONGEST_LINE:
            raise InvalidDataError(
                f"{file.name}: line {line} is longer than {_LONGEST_LINE} characters; expected "
                "one row on each line"
            )
        yield text


def read_records(
    lines: Iterable[str], separator: str | None, skipped: int = 0, *, keep_empty: bool = False
) -> Iterator[Record]:
    """Stripped cells of every record that is not blank, with the number of its first line.

    With `keep_empty` a record of several empty cells is not blank.
    """
    if separator is None:
        for line, text in enumerate(lines, skipped + 1):
            cells = text.split()
            if '"' in text:
                plain = text.strip().replace("\t", " ")
                cells = next(csv.reader([plain], delimiter=" ", skipinitialspace=True))
            if cells:
                yield line, cells
        return
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    before = skipped
    try:
        for cells in reader:
            start, before = before + 1, skipped + reader.line_num
            stripped = [cell.strip() for cell in cells]
            if any(stripped) or (keep_empty and len(stripped) > 1):
                yield start, stripped
    except csv.Error as error:
        raise csv.Error(f"line {before + 1}: {error}") from error


def format_separator(separator: str | None) -> str:
    """A separator as it would be typed."""
    return {None: "whitespace", "\t": "tab"}.get(separator, f"'{separator}'")


def find_layout(
    path: Path,
    expected: Iterable[str],
    *,
    header: bool | None,
    separator: str | None,
    keep_empty: bool = False,
) -> Layout:
    """The layout of a text file, from its first lines; what is None is guessed.

    A first record that holds all `expected` names is a header; empty ones before it are none.

    Raises:
        InvalidDataError: an empty file, only a header, a separator that does not occur, names
            that are not unique.
        InvalidArgumentError: no such separator.
    """
    if header is not None and not isinstance(header, bool):
        raise InvalidArgumentError(f"header must be true, false or null, got {header!r}")
    with reading(path), open_text(path) as file:
        if path.stat().st_size == 0:
            # So are files of the system (/proc/...), which hold more than they say.
            raise InvalidDataError(f"{path} is empty")
        lines, size = [], 0
        for text in islice(read_lines(file), _HEAD_LINES):
            lines.append(text)
            size += len(text)
            if size > _HEAD_CHARACTERS and len(lines) > 2:
                break
        whole = not file.read(1)
        chosen = _guess_separator(lines) if separator is None else _parse_separator(separator)
        records = _head_records(lines, chosen, whole=whole, keep_empty=keep_empty)
        records = list(dropwhile(lambda record: not any(record[1]), records))
        if not records:
            raise InvalidDataError(f"{path} is empty")
        if separator is not None and max(len(cells) for _, cells in records) == 1:
            other = _guess_separator(lines)
            if max(len(cells) for _, cells in _head_records(lines, other, whole=whole)) > 1:
                raise InvalidDataError(
                    f"{path}: the separator {format_separator(chosen)} does not occur; it looks "
                    f"separated by {format_separator(other)}: leave separator away"
                )
    line, first = records[0]
    named = _is_header([cells for _, cells in records], set(expected)) if header is None else header
    body = records[1:] if named else records
    if not body:
        raise InvalidDataError(f"{path} has a header and no rows")
    names, numeric = generated_names(len(first)), []
    if named:
        names = tuple(name or names[j] for j, name in enumerate(first))
        require_unique(path, names)
    for j in range(len(first)):
        cells = [row[j] for _, row in body if j < len(row)]
        if is_mostly_numeric(cells) or all(map(is_missing, cells)):
            numeric.append(j)
    return Layout(
        separator=chosen,
        names=names,
        named=named,
        skip=body[0][0] - 1 if named else 0,
        first_line=line,
        numeric=tuple(numeric),
        unnamed=frozenset(j for j, name in enumerate(first) if named and not name),
        keep_empty=keep_empty,
    )


def _head_records(
    lines: list[str], separator: str | None, *, whole: bool, keep_empty: bool = False
) -> list[Record]:
    records = list(read_records(lines, separator, keep_empty=keep_empty))
    # The last record of a part of a file may be cut within a quoted cell.
    return records if whole or len(records) < 3 else records[:-1]


def _parse_separator(separator: str) -> str | None:
    """A separator as a character, from a character or a word."""
    if isinstance(separator, str) and separator in _WORDS:
        return _WORDS[separator]
    given = separator if isinstance(separator, str) else ""
    if len(given) != 1 or given.isalnum() or given in '"+-.\r\n':
        raise InvalidArgumentError(
            "separator must be a single character (not a letter, digit, quote or sign), or one of "
            f"comma, semicolon, tab, pipe, whitespace; got {separator!r}"
        )
    return given


def _guess_separator(lines: list[str]) -> str | None:
    """The separator that splits most rows into equally many cells, most of them numbers."""
    best, choice = 0.0, _SEPARATORS[0]
    for separator in _SEPARATORS:
        try:
            rows = [cells for _, cells in read_records(lines, separator)]
        except csv.Error:
            continue
        if not rows:
            continue
        (width, count), *_ = Counter(map(len, rows)).most_common(1)
        if width < 2:
            continue
        cells = [cell for row in rows[1:] or rows for cell in row if not is_missing(cell)]
        is_number = (parse_number(c) is not None or bool(DECIMAL_COMMA.fullmatch(c)) for c in cells)
        score = count / len(rows) * (0.01 + sum(is_number) / max(len(cells), 1))
        if score > best:
            best, choice = score, separator
    return choice


def _is_header(rows: list[list[str]], expected: set[str]) -> bool:
    """Whether the first row names columns of numbers, more often than it holds a number."""
    first, body = rows[0], rows[1:]
    if expected and expected <= set(first):
        return True
    if not body:
        return not any(parse_number(cell) is not None for cell in first)
    votes = [
        parse_number(cell) is None
        for j, cell in enumerate(first)
        if not is_missing(cell) and is_mostly_numeric(row[j] for row in body if j < len(row))
    ]
    return 2 * sum(votes) > len(votes)

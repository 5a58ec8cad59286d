"""Tables of numbers in files: read as a whole, or in blocks.

Files are `.csv`, `.tsv`, `.txt`, `.npy`, `.npz`, and `.parquet` with the extra of that name.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._messages import count_rows, format_list
from gmm_lightning._validation import require_bool, require_integer
from gmm_lightning.datasets._cells import encode_labels, require_classes
from gmm_lightning.datasets._open import Columns, match_columns, open_reader, open_table
from gmm_lightning.datasets._reader import Block, Selection, TableReader
from gmm_lightning.errors import InvalidDataError, printable
from gmm_lightning.rows import BLOCK_ROWS

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers from a file, and their names.

    Args:
        x: the numbers `(N, D)`, float64.
        columns: one name per column of x; `x0, x1, ...` by position where the file has none.
        labels: the class of each row, `(N,)` with values `0 .. len(classes) - 1`, and -1 where
            its cell is empty; or None.
        classes: the name of each class, or None.
        name: the file's name without its suffix.
        source: the path.
        label: the name of the column of labels, or None.
        weight: the weight of each row `(N,)`, or None.
        weight_column: the name of the column of weights, or None.

    Example:
        >>> Table(np.zeros((2, 1)), ("height",), None, None, "trees", "trees.csv").columns
        ('height',)
    """

    x: NDArray[np.float64] = field(repr=False)
    columns: tuple[str, ...]
    labels: NDArray[np.int64] | None = field(repr=False)
    classes: tuple[str, ...] | None
    name: str
    source: str
    label: str | None = None
    weight: NDArray[np.float64] | None = field(default=None, repr=False)
    weight_column: str | None = None


def read_table(
    path: str | Path,
    *,
    columns: Columns = None,
    label: str | int | None = None,
    weight: str | int | None = None,
    header: bool | None = None,
    separator: str | None = None,
    key: str | None = None,
    allow_missing: bool = False,
) -> Table:
    r"""A table of numbers and labels, read from a file as a whole.

    Args:
        path: .csv, .tsv, .txt, .npy, .npz or .parquet.
        columns: which to read, in this order, by name or by number (from 0, in the order of the
            file, negative from its end); None: every column of numbers but label and weight.
            Columns of text, empty columns and a nameless column that only counts the rows are
            then left out, which is logged.
        label: the column of classes, by name or number; in a .npz file also another array. An
            empty cell, or NA, is an unknown class.
        weight: the column of sample weights, likewise.
        header: of a text file, whether its first line holds names; None: guess.
        separator: of a text file, a character or one of comma, semicolon, tab, pipe, whitespace;
            None: guess.
        key: the array of a .npz file; None: `x`, `X` or its only matrix. An array of text called
            `columns` holds names.
        allow_missing: keep missing cells of the columns of numbers, as NaN, and lines of separators
            alone, as rows.

    Raises:
        InvalidDataError: no such file, one that cannot be read or holds no rows; text, missing or
            infinite values among the numbers (named by row and column), rows of unequal length,
            names that are not unique, a column of labels without any.
        InvalidArgumentError: an unknown suffix, column, label, array or separator; a label that
            is also chosen as a column.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "trees.csv")
        >>> _ = path.write_text("height;girth;kind\n12.5;0.8;oak\n30;1.1;fir\n")
        >>> trees = read_table(path, label="kind")
        >>> trees.x.tolist(), trees.columns, trees.labels.tolist(), trees.classes
        ([[12.5, 0.8], [30.0, 1.1]], ('height', 'girth'), [1, 0], ('fir', 'oak'))
        >>> read_table(path, columns=["girth", 0]).columns
        ('girth', 'height')
        >>> folder.cleanup()
    """
    options: dict[str, Any] = {"header": header, "separator": separator, "key": key}
    options["allow_missing"] = require_bool("allow_missing", allow_missing)
    reader, positions = open_table(path, columns, label, weight, **options)
    optional = positions.features if allow_missing else ()
    selection = reader.select(positions.numbers, positions.label, optional)
    size = reader.count_rows() if reader.in_memory else BLOCK_ROWS
    blocks = deque(reader.blocks(selection, size))
    features = kept = positions.features
    if columns is None:
        errors = selection.errors
        kept = [j for j in kept if not (errors.is_text(j) or errors.is_empty(j))]
    selection.errors.check([*kept, *positions.others])
    if not kept or not blocks:
        raise InvalidDataError(f"{reader.path} holds no numbers")
    names = dict[int | None, str](enumerate(reader.all_names))
    codes, classes = None, None
    if positions.label is not None:
        codes, classes = encode_labels([label for block in blocks for label in block.labels or ()])
        require_classes(classes, reader.path, names[positions.label])
    x, at = _stack(blocks), {j: i for i, j in enumerate(features)}
    if columns is None:
        unnamed = {j for j in kept if j in reader.unnamed}
        numbering = {j for j in unnamed if _is_row_index(x[:, at[j]])}
        kept = [j for j in kept if j not in numbering] or kept
    table = Table(
        x=x if len(kept) == x.shape[1] else x.take([at[j] for j in kept], axis=1),
        columns=tuple(names[j] for j in kept),
        labels=codes,
        classes=classes,
        name=reader.path.stem,
        source=str(reader.path),
        label=names.get(positions.label),
        weight=None if positions.weight is None else x[:, -1].copy(),
        weight_column=names.get(positions.weight),
    )
    _log.info("%s", printable(_summary(reader, table, everything=columns is None)))
    return table


def iter_table(
    path: str | Path,
    *,
    columns: Sequence[str],
    header: bool | None = None,
    separator: str | None = None,
    key: str | None = None,
    batch_rows: int = BLOCK_ROWS,
    allow_missing: bool = False,
) -> Iterator[NDArray[np.float64]]:
    r"""Blocks of given columns of a file; only the arrays of a .npz file are held as a whole.

    Columns are found by name. In a file without names `x0, x1, ...` are its first, second, ...
    column, and other names are taken in order if there are as many columns.

    Args:
        path: as for :func:`read_table`.
        columns: names of the columns, in the order wanted.
        header: as for :func:`read_table`.
        separator: as for :func:`read_table`.
        key: as for :func:`read_table`.
        batch_rows: rows of a block, at most.
        allow_missing: as for :func:`read_table`.

    Returns:
        Blocks `(n, D)` of float64. Errors of the whole file are raised at once, that of a bad row
        when its block is reached.

    Raises:
        InvalidDataError: as for :func:`read_table`; or columns that the file does not have.
        InvalidArgumentError: an unknown suffix, array or separator.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "trees.csv")
        >>> _ = path.write_text("girth,kind,height\n0.8,oak,12.5\n1.1,fir,30\n0.9,oak,11\n")
        >>> [b.tolist() for b in iter_table(path, columns=["height", "girth"], batch_rows=2)]
        [[[12.5, 0.8], [30.0, 1.1]], [[11.0, 0.9]]]
        >>> folder.cleanup()
    """
    batch_rows = require_integer("batch_rows", batch_rows, least=1)
    options: dict[str, Any] = {"header": header, "separator": separator, "key": key}
    options["allow_missing"] = require_bool("allow_missing", allow_missing)
    reader = open_reader(path, columns, **options)
    found = match_columns(reader, columns)
    optional = found if allow_missing else ()
    return _iter_checked(reader, reader.select(found, optional=optional), batch_rows)


def read_tables(
    paths: Sequence[str | Path],
    *,
    columns: Columns = None,
    label: str | int | None = None,
    weight: str | int | None = None,
    **options: Any,
) -> list[Table]:
    r"""Tables of files that belong together: columns as in the first, by name, common classes.

    Args:
        paths: the files.
        columns: of the first, as for :func:`read_table`.
        label: likewise.
        weight: likewise.
        options: as for :func:`read_table`, for all of them.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> paths = [Path(folder.name, "old.csv"), Path(folder.name, "new.csv")]
        >>> _ = paths[0].write_text("height,girth,kind\n12.5,0.8,oak\n30,1.1,oak\n")
        >>> _ = paths[1].write_text("girth,height,kind\n0.9,11,oak\n1.2,28,fir\n")
        >>> old, new = read_tables(paths, label="kind")
        >>> new.x.tolist(), old.labels.tolist(), new.labels.tolist(), new.classes
        ([[11.0, 0.9], [28.0, 1.2]], [1, 1], [1, 0], ('fir', 'oak'))
        >>> folder.cleanup()
    """
    first = read_table(paths[0], columns=columns, label=label, weight=weight, **options)
    same = {"columns": first.columns, "label": first.label, "weight": first.weight_column}
    same |= options
    tables = [first, *(read_table(path, **same) for path in paths[1:])]
    if first.classes is None:
        return tables
    codes, classes = encode_labels([name for table in tables for name in table.classes or ()])
    own = np.split(codes, np.cumsum([len(table.classes or ()) for table in tables])[:-1])
    return [
        # The last one is for rows without a label.
        replace(table, labels=np.append(code, -1)[table.labels], classes=classes)
        for table, code in zip(tables, own, strict=True)
    ]


def _stack(blocks: deque[Block]) -> NDArray[np.float64]:
    """The rows of blocks, each freed once it is copied; a single one is not copied."""
    if len(blocks) == 1:
        x = blocks.popleft().x
        return x.astype(np.float64, copy=isinstance(x, np.memmap), subok=False)
    stacked, row = np.empty((sum(len(b.x) for b in blocks), blocks[0].x.shape[1])), 0
    while blocks:
        x = blocks.popleft().x
        stacked[row : row + len(x)] = x
        row += len(x)
    return stacked


def _is_row_index(column: NDArray[np.float64]) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ..., as programs number the rows."""
    return bool((column == np.arange(len(column)) + (column[0] == 1)).all())


def _summary(reader: TableReader, table: Table, *, everything: bool) -> str:
    """A line on what was read, with what layout and, with `everything`, what was left out."""
    parts = [f"{count_rows(len(table.x))} of {format_list(table.columns, 20)}"]
    if table.classes is not None and table.labels is not None:
        without = int((table.labels < 0).sum())
        none = f", none in {count_rows(without)}" if without else ""
        parts.append(f"label {table.label} of {len(table.classes)} classes{none}")
    used = {*table.columns, table.label, table.weight_column}
    left = [name for name in reader.names if name not in used]
    if everything and left:
        parts.append(f"left out: {format_list(left, 20)}")
    return f"{reader.path}{reader.description}: {'; '.join(parts)}"


def _iter_checked(
    reader: TableReader, selection: Selection, batch_rows: int
) -> Iterator[NDArray[np.float64]]:
    for block in reader.blocks(selection, batch_rows):
        selection.check()
        if len(block.x):
            yield np.array(block.x, dtype=np.float64, order="C")

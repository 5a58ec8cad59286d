"""Tables of numbers in files: read whole, read in blocks, written as they come.

Files are `.csv`, `.tsv`, `.txt`, `.npy`, `.npz`, and `.parquet` with the extra of that name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._cells import encode, listed
from gmm_lightning.datasets._open import chosen_columns, counts_rows, matched, opened
from gmm_lightning.datasets._source import Source
from gmm_lightning.datasets._writer import TableWriter
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

__all__ = ["Table", "TableWriter", "iter_table", "read_table", "read_tables"]

ROWS = 1 << 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers from a file, with the names that belong to them.

    Shape:
        x `(N, D)`; labels `(N,)` with values `0 .. len(classes) - 1`.

    Args:
        x: the numbers, float64.
        columns: one name per column of x; `x0, x1, ...` by position where the file has none.
        labels: the class of each row, or None.
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
    columns: Sequence[str | int] | str | int | None = None,
    label: str | int | None = None,
    weight: str | int | None = None,
    header: bool | None = None,
    separator: str | None = None,
    key: str | None = None,
) -> Table:
    r"""Read a file of numbers whole.

    Args:
        path: .csv, .tsv, .txt, .npy, .npz or .parquet.
        columns: which to read, in this order, by name or by number (from 0, in the order of the
            file, negative from its end); None: every column of numbers but label and weight.
            Columns of text, empty columns and a nameless column that merely counts the rows are
            then left out, and a logged line says so.
        label: the column of classes, by name or number; in a .npz file also an array of its own.
        weight: the column of sample weights, likewise.
        header: of a text file, whether its first line holds names; None: guess.
        separator: of a text file, a character or one of comma, semicolon, tab, pipe, whitespace;
            None: guess.
        key: the array of a .npz file; None: `x`, `X` or its only matrix. An array of text called
            `columns` holds names.

    Raises:
        InvalidDataError: no such file, one that cannot be read or holds no rows; text, missing or
            infinite values among the numbers (named by row and column), rows of unequal length,
            names that are not unique.
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
    given = None
    if columns is not None:
        given = [columns] if isinstance(columns, str | int) else list(columns)
    expected = [name for name in (*(given or ()), label, weight) if isinstance(name, str)]
    source = opened(path, expected, header=header, separator=separator, key=key)
    at = None if label is None else source.position(label, "label column")
    beside = [] if weight is None else [source.position(weight, "weight column")]
    chosen = chosen_columns(source, given, at, *beside)
    faults, parts, labels = source.faults(), [], []
    for block in source.blocks([*chosen, *beside], at, ROWS, faults):
        parts.append(block.x)
        labels.extend(block.labels or ())
    kept = list(range(len(chosen)))
    if given is None:
        kept = [i for i in kept if not (faults.is_text(chosen[i]) or faults.is_empty(chosen[i]))]
    faults.check([*(chosen[i] for i in kept), *beside, *(() if at is None else (at,))])
    if not kept or not parts:
        raise InvalidDataError(f"{source.path} holds no numbers")
    x = np.concatenate(parts)
    if given is None:
        counting = {i for i in kept if chosen[i] in source.unnamed and counts_rows(x[:, i])}
        kept = [i for i in kept if i not in counting] or kept
    codes, classes = (None, None) if at is None else encode(labels)
    table = Table(
        x=x if len(kept) == x.shape[1] else np.ascontiguousarray(x[:, kept]),
        columns=tuple(source.names[chosen[i]] for i in kept),
        labels=codes,
        classes=classes,
        name=source.path.stem,
        source=str(source.path),
        label=None if at is None else source.name_of(at),
        weight=x[:, -1].copy() if beside else None,
        weight_column=source.name_of(*beside) if beside else None,
    )
    used = (*table.columns, table.label, table.weight_column)
    left = [name for name in source.names if name not in used]
    log.info("%s", _said(source, table, left if given is None else []))
    return table


def iter_table(
    path: str | Path,
    *,
    columns: Sequence[str],
    header: bool | None = None,
    separator: str | None = None,
    key: str | None = None,
    batch_rows: int = ROWS,
) -> Iterator[NDArray[np.float64]]:
    r"""Read given columns of a file in blocks, without ever holding the whole file.

    Columns are found by name, wherever they stand. In a file without names `x0, x1, ...` are its
    first, second, ... column, and other names are taken in order if there are as many columns.
    (The arrays of a .npz file are held as a whole.)

    Args:
        path: as for :func:`read_table`.
        columns: names of the columns, in the order wanted.
        header: as for :func:`read_table`.
        separator: as for :func:`read_table`.
        key: as for :func:`read_table`.
        batch_rows: rows of a block, at most.

    Returns:
        Blocks `(n, D)` of float64. What concerns the whole file is refused at once, a bad row
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
    if batch_rows < 1:
        raise InvalidArgumentError(f"batch_rows must be >= 1, got {batch_rows}")
    source = opened(path, columns, header=header, separator=separator, key=key)
    return _checked_blocks(source, matched(source, tuple(columns)), batch_rows)


def read_tables(
    paths: Sequence[str | Path],
    *,
    columns: Sequence[str | int] | str | int | None = None,
    label: str | int | None = None,
    weight: str | int | None = None,
    **options: Any,
) -> list[Table]:
    r"""Read files that belong together: columns as in the first, by name, and common classes.

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
    codes, classes = encode([name for table in tables for name in table.classes or ()])
    own = np.split(codes, np.cumsum([len(table.classes or ()) for table in tables])[:-1])
    return [
        replace(table, labels=code[table.labels], classes=classes)
        for table, code in zip(tables, own, strict=True)
    ]


def _said(source: Source, table: Table, left: list[str]) -> str:
    """What was read, how it was understood, and what was left out."""
    parts = [f"{len(table.x)} rows of {listed(table.columns)}"]
    if table.classes is not None:
        parts.append(f"label {table.label} of {len(table.classes)} classes")
    if left:
        parts.append(f"left out: {listed(left)}")
    return f"{source.path}{source.described}: {'; '.join(parts)}"


def _checked_blocks(
    source: Source, chosen: list[int], batch_rows: int
) -> Iterator[NDArray[np.float64]]:
    faults = source.faults()
    for block in source.blocks(chosen, None, batch_rows, faults):
        faults.check(chosen)
        if len(block.x):
            yield block.x

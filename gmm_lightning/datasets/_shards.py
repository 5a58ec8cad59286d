"""The files that a path stands for, and one of them as a run of rows."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._cells import listed
from gmm_lightning.datasets._open import ARRAYS, PARQUET, TEXT
from gmm_lightning.datasets._source import Block, Source
from gmm_lightning.errors import InvalidDataError

KNOWN = (*TEXT, *ARRAYS, *PARQUET)


def files_of(path: str | Path) -> list[Path]:
    """A file; or the files of a folder or of a pattern, by name.

    Names that begin with a dot or an underscore are left out, as other programs do.

    Raises:
        InvalidDataError: no files there, or files of several kinds.
    """
    whole = Path(str(path)).expanduser()
    if whole.is_dir():
        files = [p for p in whole.iterdir() if p.suffix.lower() in KNOWN]
        said = f"the folder {path} holds no file that ends in {listed(KNOWN)}"
    elif not whole.exists() and glob.has_magic(str(whole)):
        files = [Path(found) for found in glob.glob(str(whole))]
        said = f"no file matches {path}"
    else:
        return [whole]
    files = sorted(p for p in files if p.is_file() and p.name[0] not in "._")
    if not files:
        raise InvalidDataError(f"{said}; check the path")
    kinds = sorted({p.suffix.lower() for p in files})
    if len(kinds) > 1:
        raise InvalidDataError(
            f"{path} holds files of several kinds, {listed(kinds)}; expected shards of one kind"
        )
    return files


@dataclass(frozen=True, eq=False)
class Shard:
    """One file of a stream.

    Attributes:
        path: the file.
        reopen: gives its reader; many readers are not held at once.
        columns: where the features stand.
        weight: where the weights stand, or None.
        label: where the labels stand, or None.
        num_rows: how many rows it has.
    """

    path: Path
    reopen: Callable[[], Source]
    columns: list[int]
    weight: int | None
    label: int | None
    num_rows: int

    def blocks(self, start: int, rows: int, *, labelled: bool) -> Iterator[Block]:
        """Rows from `start` on, the weight as a further column.

        Raises:
            InvalidDataError: a bad row, named; or fewer rows than there were.
        """
        source, row = self.reopen(), start
        wanted = [*self.columns, *(() if self.weight is None else (self.weight,))]
        label = self.label if labelled else None
        faults = source.faults()
        for block in source.slices(wanted, label, rows, faults, start):
            faults.check([*wanted, *(() if label is None else (label,))])
            if self.weight is not None:
                self._check_weight(source, block.x[:, -1], row)
            row += len(block.x)
            yield block
        if row != self.num_rows:
            raise InvalidDataError(
                f"{self.path} was changed while it was read: expected {self.num_rows} rows, and "
                f"it ended after row {row - 1}; start again"
            )

    def _check_weight(self, source: Source, weight: NDArray[Any], row: int) -> None:
        if len(weight) and weight.min() < 0:
            assert self.weight is not None
            at = int(np.argmax(weight < 0))
            raise InvalidDataError(
                f"{self.path}: expected weights >= 0 in {source.name_of(self.weight)}, got "
                f"{weight[at]:g} in row {row + at} (counted from 0)"
            )


def regrouped(blocks: Iterator[Block], limit: int, rows: int) -> Iterator[Block]:
    """The first `limit` rows in blocks of exactly `rows`, but for the last.

    Blocks that come in that size are passed on as they are, without a copy.
    """
    kept: list[Block] = []
    held = 0
    while limit > 0:
        block = next(blocks, None)
        if block is None:
            break
        block = block.at(slice(0, limit))
        limit -= len(block.x)
        while held + len(block.x) >= rows:
            take = rows - held
            yield joined([*kept, block.at(slice(0, take))])
            kept, held, block = [], 0, block.at(slice(take, None))
        if len(block.x):
            kept, held = [*kept, block], held + len(block.x)
    if kept:
        yield joined(kept)


def joined(blocks: list[Block]) -> Block:
    """Blocks as one."""
    blocks = [block for block in blocks if len(block.x)]
    if len(blocks) == 1:
        return blocks[0]
    labels = [block.labels for block in blocks if block.labels is not None]
    return Block(
        np.concatenate([block.x for block in blocks]),
        [value for part in labels for value in part] if labels else None,
    )

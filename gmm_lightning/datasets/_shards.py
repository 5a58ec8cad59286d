"""The files that a path denotes, and the rows of one of them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gmm_lightning._messages import format_list
from gmm_lightning._validation import require_weights
from gmm_lightning.datasets._open import SUFFIXES, Positions
from gmm_lightning.datasets._reader import Block, TableReader
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows import as_tensor


def list_files(path: str | Path) -> list[Path]:
    """A file; or the files of a folder or of a pattern, by name.

    Names that begin with a dot or an underscore are left out, as other programs do.
    """
    whole = Path(str(path)).expanduser()
    if whole.is_dir():
        files = [p for p in whole.iterdir() if p.suffix.lower() in SUFFIXES]
        reason = f"the folder {path} holds no file that ends in {format_list(SUFFIXES)}"
    elif not whole.exists() and glob.has_magic(str(whole)):
        files = [Path(found) for found in glob.glob(str(whole))]
        reason = f"no file matches {path}"
    else:
        return [whole]
    files = sorted(p for p in files if p.is_file() and p.name[0] not in "._")
    if not files:
        raise InvalidDataError(f"{reason}; check the path")
    kinds = sorted({p.suffix.lower() for p in files})
    if len(kinds) > 1:
        raise InvalidDataError(
            f"{path} holds files of several kinds, {format_list(kinds)}; expected shards of one "
            "kind"
        )
    return files


@dataclass(frozen=True, eq=False)
class Shard:
    """One file of a stream.

    Attributes:
        reopen: returns its reader; with many shards the readers are not kept.
        positions: of the columns to read.
        num_rows: N.
        allow_missing: whether entries of the features may be missing.
    """

    reopen: Callable[[], TableReader]
    positions: Positions
    num_rows: int
    allow_missing: bool = False

    @property
    def label(self) -> tuple[Path, str]:
        """The path, and the name of the column of labels."""
        reader, label = self.reopen(), self.positions.label
        assert label is not None
        return reader.path, reader.all_names[label]

    def blocks(self, start: int, batch_rows: int, *, labelled: bool) -> Iterator[Block]:
        """Rows from `start` on, the weight as a further column."""
        reader, row = self.reopen(), start
        label, weight = self.positions.label if labelled else None, self.positions.weight
        optional = self.positions.features if self.allow_missing else ()
        selection = reader.select(self.positions.numbers, label, optional)
        for block in reader.blocks(selection, batch_rows, start):
            selection.check()
            if weight is not None:
                name = f"{reader.path}: {reader.all_names[weight]} (rows counted from 0)"
                require_weights(as_tensor(block.x[:, -1]), name, row)
            row += len(block.x)
            yield block
        if row != self.num_rows:
            raise InvalidDataError(
                f"{reader.path} was changed while it was read: expected {self.num_rows} rows, and "
                f"it ended after row {row - 1}; start again"
            )

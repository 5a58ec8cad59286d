"""Tables written as they come, complete or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._cells import listed
from gmm_lightning.errors import InvalidArgumentError

SUFFIXES = (".csv", ".npz")


class TableWriter:
    """Writes a .csv file row by row, or a .npz file when all rows have come.

    The file appears under its name when the block ends well. On an error nothing is left, and
    an older file stays as it was. Missing folders are made.

    Args:
        path: where to write: .csv (numbers as their exact shortest decimals, truth values as 0
            and 1) or .npz.
        columns: names of what is written.
        overwrite: replace a file that exists.

    Raises:
        InvalidArgumentError: an unknown suffix, a file that exists, or one that cannot be
            written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "new", "labels.csv")
        >>> with TableWriter(path, ["component", "responsibilities"]) as table:
        ...     table.write(component=np.array([1]), responsibilities=np.array([[0.25, 0.75]]))
        >>> print(path.read_text())
        component,responsibilities_0,responsibilities_1
        1,0.25,0.75
        >>> folder.cleanup()
    """

    def __init__(
        self, path: str | Path, columns: Sequence[str], *, overwrite: bool = False
    ) -> None:
        self.path, self.columns, self.overwrite = Path(path).expanduser(), tuple(columns), overwrite
        if self.path.suffix.lower() not in SUFFIXES:
            raise InvalidArgumentError(
                f"{self.path}: expected a name that ends in {listed(SUFFIXES)}"
            )
        if len(set(self.columns)) < len(self.columns) or not self.columns:
            raise InvalidArgumentError(f"expected columns of different names, got {self.columns}")
        self._require_free()
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._made: list[Path] = []
        self._text: TextIO | None = None
        self._parts: list[dict[str, NDArray[Any]]] = []

    def __enter__(self) -> Self:
        folder = self.path.parent
        self._made = [p for p in (folder, *folder.parents) if not p.exists()]
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._text = self._partial.open("w", encoding="utf-8", newline="")
        return self

    def write(self, block: Any = None, /, **arrays: Any) -> None:
        """Add rows.

        Args:
            block: a matrix `(n, len(columns))`; a .npz file keeps it as `x`, with the names in
                `columns`, as `read_table` reads it.
            arrays: instead, one per column, each of n entries or `(n, K)`: K columns of a .csv
                file called `name_0, ..., name_{K-1}`.

        Raises:
            InvalidArgumentError: not the columns announced, unequal lengths, or a full disk.
        """
        if self._text is None:
            raise InvalidArgumentError("write to a TableWriter inside its with block")
        if (block is None) == (not arrays):
            raise InvalidArgumentError("expected either a block of rows or one array per column")
        part = self._from_block(block) if block is not None else self._from_arrays(arrays)
        if self._parts:
            now, before = ({k: v.shape[1:] for k, v in p.items()} for p in (part, self._parts[0]))
            if now != before:
                raise InvalidArgumentError(f"expected arrays as before, {before}, got {now}")
        if self.path.suffix.lower() == ".npz":
            self._parts.append(part)
            return
        with self._writing():
            # The format does not depend on the platform: lines end in one character.
            out = csv.writer(self._text, lineterminator="\n")
            if not self._parts:
                self._parts.append({name: array[:0] for name, array in part.items()})
                out.writerow(_names(part) if block is None else self.columns)
            out.writerows(zip(*_cells(part), strict=True))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._discard()
            return
        with self._writing():
            self._finish()

    def _finish(self) -> None:
        assert self._text is not None
        if self.path.suffix.lower() == ".npz":
            self._text.close()
            arrays = {
                name: np.concatenate([part[name] for part in self._parts])
                for name in (self._parts[0] if self._parts else ())
            }
            if tuple(arrays) == ("x",) and self.columns != ("x",):
                arrays["columns"] = np.array(self.columns)
            with self._partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        else:
            if not self._parts:
                csv.writer(self._text, lineterminator="\n").writerow(self.columns)
            self._text.close()
        self._require_free()
        self._partial.replace(self.path)

    def _from_block(self, block: Any) -> dict[str, NDArray[Any]]:
        array = np.asarray(block)
        if array.ndim != 2 or array.shape[1] != len(self.columns):
            raise InvalidArgumentError(
                f"expected rows of {len(self.columns)} columns, got an array of shape {array.shape}"
            )
        return {"x": array}

    def _from_arrays(self, arrays: dict[str, Any]) -> dict[str, NDArray[Any]]:
        if set(arrays) != set(self.columns):
            raise InvalidArgumentError(
                f"expected the columns {listed(self.columns)}, got {listed(arrays)}"
            )
        part = {name: np.asarray(arrays[name]) for name in self.columns}
        shapes = {name: array.shape for name, array in part.items()}
        sizes = {shape[:1] for shape in shapes.values()}
        if len(sizes) != 1 or any(a.ndim not in (1, 2) for a in part.values()):
            raise InvalidArgumentError(f"expected arrays of the same number of rows, got {shapes}")
        return part

    def _require_free(self) -> None:
        if self.path.is_dir():
            raise InvalidArgumentError(f"{self.path} is a folder; expected the name of a file")
        if self.path.exists() and not self.overwrite:
            raise InvalidArgumentError(
                f"{self.path} exists; choose another name, or replace it with overwrite=true"
            )

    def _discard(self) -> None:
        if self._text is not None:
            # On a full disk: what could not be flushed is thrown away anyway.
            with suppress(OSError):
                self._text.close()
        with suppress(OSError):
            self._partial.unlink()
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            raise InvalidArgumentError(
                f"cannot write {self.path}: {error.strerror or error}"
            ) from error
        except BaseException:
            self._discard()
            raise


def _names(part: dict[str, NDArray[Any]]) -> list[str]:
    """The header of a .csv file: a matrix has a column for each of its own."""
    names: list[str] = []
    for name, array in part.items():
        names += [name] if array.ndim == 1 else [f"{name}_{k}" for k in range(array.shape[1])]
    return names


def _cells(part: dict[str, NDArray[Any]]) -> Iterator[list[Any]]:
    """Columns as Python values, of which the csv module writes numbers exactly."""
    for array in part.values():
        plain = array.astype(np.int8) if array.dtype.kind == "b" else array
        yield from [plain.tolist()] if plain.ndim == 1 else plain.T.tolist()

"""Tables written row by row, atomically: a file is complete or absent."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._files import atomic_write
from gmm_lightning._messages import format_list
from gmm_lightning.errors import InvalidArgumentError

_SUFFIXES = (".csv", ".npz")
_Columns = dict[str, NDArray[Any]]


class TableWriter:
    """Writes a .csv file row by row, or a .npz file at the end.

    The file appears under its name when the block ends without an error. After an error nothing
    is left, and an older file stays unchanged. Missing folders are made.

    Args:
        path: where to write: .csv (numbers as their exact shortest decimals, truth values as 0
            and 1) or .npz.
        columns: names of the columns.
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
        self._is_csv = self.path.suffix.lower() == ".csv"
        if self.path.suffix.lower() not in _SUFFIXES:
            raise InvalidArgumentError(
                f"{self.path}: expected a name that ends in {format_list(_SUFFIXES)}"
            )
        if len(set(self.columns)) < len(self.columns) or not self.columns:
            raise InvalidArgumentError(f"expected columns of different names, got {self.columns}")
        self._require_free()
        self._file: Any = None
        self._csv: Any = None
        self._parts: list[_Columns] = []
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def __enter__(self) -> Self:
        text = {"mode": "w", "encoding": "utf-8", "newline": ""}
        options: dict[str, Any] = text if self._is_csv else {"mode": "wb"}
        with self._explain(), ExitStack() as stack:
            partial = stack.enter_context(atomic_write(self.path, unique=True))
            self._file = stack.enter_context(partial.open(**options))
            self._stack = stack.pop_all()
        if self._is_csv:
            # The format does not depend on the platform: lines end in one character.
            self._csv = csv.writer(self._file, lineterminator="\n")
        return self

    def write(self, block: Any = None, /, **arrays: Any) -> None:
        """Add rows.

        Args:
            block: a matrix `(n, len(columns))`; a .npz file keeps it as `x`, with the names in
                `columns`, as `read_table` reads it.
            arrays: instead, one per column, each of n entries or `(n, K)`: K columns of a .csv
                file called `name_0, ..., name_{K-1}`.

        Raises:
            InvalidArgumentError: other columns than declared, unequal lengths, or a full disk.
        """
        if self._file is None:
            raise InvalidArgumentError("write to a TableWriter inside its with block")
        if (block is None) == (not arrays):
            raise InvalidArgumentError("expected either a block of rows or one array per column")
        part = self._from_arrays(arrays) if block is None else self._from_block(block)
        before, shapes = self._shapes, {name: array.shape[1:] for name, array in part.items()}
        if before not in (None, shapes):
            raise InvalidArgumentError(f"expected arrays as before, {before}, got {shapes}")
        self._shapes = shapes
        if not self._is_csv:
            self._parts.append(part)
            return
        with self._explain():
            if before is None:
                self._csv.writerow(_header(part) if block is None else self.columns)
            self._csv.writerows(zip(*_cells(part), strict=True))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._explain():
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            with self._stack:
                self._finish()

    def _finish(self) -> None:
        if not self._is_csv:
            arrays = {
                name: np.concatenate([part[name] for part in self._parts])
                for name in self._shapes or ()
            }
            if tuple(arrays) == ("x",) and self.columns != ("x",):
                arrays["columns"] = np.array(self.columns)
            # By hand: np.savez takes no array that is called like one of its arguments.
            with zipfile.ZipFile(self._file, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        elif self._shapes is None:
            self._csv.writerow(self.columns)
        self._require_free()

    def _from_block(self, block: Any) -> _Columns:
        array = np.asarray(block)
        if array.ndim != 2 or array.shape[1] != len(self.columns):
            raise InvalidArgumentError(
                f"expected rows of {len(self.columns)} columns, got an array of shape {array.shape}"
            )
        return {"x": array}

    def _from_arrays(self, arrays: dict[str, Any]) -> _Columns:
        if set(arrays) != set(self.columns):
            raise InvalidArgumentError(
                f"expected the columns {format_list(self.columns)}, got {format_list(arrays)}"
            )
        part = {name: np.asarray(arrays[name]) for name in self.columns}
        shapes = {name: array.shape for name, array in part.items()}
        sizes = {shape[:1] for shape in shapes.values()}
        if len(sizes) != 1 or any(a.ndim not in (1, 2) for a in part.values()):
            raise InvalidArgumentError(f"expected arrays of the same number of rows, got {shapes}")
        objects = [name for name, array in part.items() if array.dtype.hasobject]
        if objects and not self._is_csv:
            raise InvalidArgumentError(
                f"expected numbers or text, got Python objects in {format_list(objects)}; "
                "write .csv"
            )
        return part

    def _require_free(self) -> None:
        if self.path.is_dir():
            raise InvalidArgumentError(f"{self.path} is a folder; expected the name of a file")
        if self.path.exists() and not self.overwrite:
            raise InvalidArgumentError(
                f"{self.path} exists; choose another name, or replace it with overwrite=true"
            )

    @contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidArgumentError(
                f"cannot write {self.path}: {error.strerror or error}"
            ) from error


def _header(part: _Columns) -> list[str]:
    """Names of the columns of a .csv file: a matrix has one for each of its columns."""
    names: list[str] = []
    for name, array in part.items():
        names += [name] if array.ndim == 1 else [f"{name}_{k}" for k in range(array.shape[1])]
    return names


def _cells(part: _Columns) -> Iterator[list[Any]]:
    """Columns as Python values, of which the csv module writes numbers exactly."""
    for array in part.values():
        values = array.astype(np.int8) if array.dtype.kind == "b" else array
        yield from [values.tolist()] if values.ndim == 1 else values.T.tolist()

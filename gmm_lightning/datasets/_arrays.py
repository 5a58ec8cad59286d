"""Rows of numpy's files."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._validation import format_list
from gmm_lightning.datasets._maps import as_floats, map_members, take_columns
from gmm_lightning.datasets._reader import (
    Block,
    Selection,
    TableReader,
    generated_names,
    reading,
    require_unique,
)
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


class ArrayReader(TableReader):
    """A .npy file, mapped into memory, or the array `key` of a .npz file.

    Without a key it is `x`, `X`, or the only matrix. Arrays of a .npz file are mapped on demand,
    unless they are compressed.
    """

    random_access = True

    def __init__(self, path: Path, key: str | None, *, mapped: bool) -> None:
        self.path = path
        arrays: dict[str, NDArray[Any]] = {}
        with reading(path), _explain(path):
            if path.suffix.lower() == ".npy":
                key = path.stem
                arrays[key] = np.lib.format.open_memmap(path, mode="r")
            else:
                if mapped and zipfile.is_zipfile(path):
                    arrays |= map_members(path)
                with path.open("rb") as file:
                    found = np.load(file, allow_pickle=False)
                    # In spite of the suffix it may be a single array.
                    if isinstance(found, np.lib.npyio.NpzFile):
                        arrays |= {name: found[name] for name in found if name not in arrays}
                    else:
                        arrays["x"] = found
        key = _choose_array(path, arrays, key)
        self.array = _as_matrix(path, arrays.pop(key))
        self.names = generated_names(self.array.shape[1])
        self.named = "columns" in arrays
        if self.named:
            self.names = tuple(str(name) for name in arrays.pop("columns").ravel())
            if len(self.names) != self.array.shape[1]:
                raise InvalidDataError(
                    f"{path}: the array columns has {len(self.names)} names for the "
                    f"{self.array.shape[1]} columns of {key}"
                )
            require_unique(path, self.names)
        shape = self.array.shape[:1]
        self._extra = {
            name: array
            for name, array in arrays.items()
            if array.shape == shape and name not in self.names
        }
        self.extra_names = tuple(self._extra)

    def numeric_columns(self) -> list[int]:
        """All columns of the matrix."""
        return list(range(len(self.names)))

    def count_rows(self) -> int:
        """Number of rows, the length of the array."""
        return len(self.array)

    def blocks(self, selection: Selection, batch_rows: int, start: int = 0) -> Iterator[Block]:
        """Slices of the array, read from the disk one by one; rows are counted from 0."""
        columns, label, errors = selection
        matrix = [column for column in columns if column < len(self.names)]
        extra = [self._numeric_column(column) for column in columns[len(matrix) :]]
        for low in range(start, len(self.array), batch_rows):
            index = slice(low, low + batch_rows)
            with reading(self.path):
                self._require_whole()
                x = as_floats(take_columns(self.array, index, matrix))
            if extra:
                x = np.column_stack([x, *(values[index] for values in extra)])
            errors.add_block(x, columns, low)
            labels = None
            if label is not None:
                labels = self._column(label)[index].tolist()
                for row, value in enumerate(labels, low):
                    errors.add_label(label, row, value)
            yield Block(x, labels)

    def _require_whole(self) -> None:
        """Raise if the file was cut short since: reading its map would be a bus error."""
        if isinstance(self.array, np.memmap):
            least = self.array.offset + self.array.nbytes
            found = self.path.stat().st_size
            if found < least:
                raise InvalidDataError(
                    f"{self.path} was cut short while it was read: expected {least} bytes for its "
                    f"{len(self.array)} rows, found {found}; write it again"
                )

    def _column(self, column: int) -> NDArray[Any]:
        """A column of the matrix, or an array beside it, by its position."""
        name = self.all_names[column]
        return self._extra[name] if name in self._extra else self.array[:, column]

    def _numeric_column(self, column: int) -> NDArray[Any]:
        array = self._column(column)
        if array.dtype.kind not in "fiub":
            raise InvalidDataError(
                f"{self.path}: expected numbers in {self.all_names[column]}, got an array of dtype "
                f"{array.dtype}"
            )
        return array


def _choose_array(path: Path, arrays: dict[str, NDArray[Any]], key: str | None) -> str:
    """The name of the array that holds the rows."""
    known = format_list((f"{name} {array.shape}" for name, array in arrays.items()), 20) or "none"
    if key is not None:
        if key not in arrays:
            raise InvalidArgumentError(f"{path}: there is no array {key!r}; it holds: {known}")
        return key
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    for name in ("x", "X", *(matrices if len(matrices) == 1 else ())):
        if name in arrays:
            return name
    raise InvalidDataError(
        f"{path}: none of its arrays is called x, and not exactly one is a matrix; say which to "
        f"read with key=; it holds: {known}"
    )


def _as_matrix(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Rows `(N, D)`; a vector is one column."""
    if array.dtype.kind not in "fiub":
        raise InvalidDataError(f"{path}: expected numbers, got an array of dtype {array.dtype}")
    if array.ndim not in (1, 2):
        raise InvalidDataError(
            f"{path}: expected a matrix of rows (N, D), got an array of shape {array.shape}"
        )
    if 0 in array.shape:
        raise InvalidDataError(f"{path} is empty: its array is of shape {array.shape}")
    return array[:, None] if array.ndim == 1 else array


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Context that turns errors of numpy's readers into one sentence about the file."""
    broken = (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, SyntaxError)
    try:
        yield
    except (*broken, pickle.UnpicklingError) as error:
        raise InvalidDataError(
            f"{path} is not a readable {path.suffix} file of plain numbers (it is empty, cut "
            "short, of another format, or holds Python objects, which are never loaded)"
        ) from error

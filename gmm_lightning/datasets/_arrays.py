"""Rows of numpy's files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._messages import format_list
from gmm_lightning.datasets._reader import (
    Block,
    Selection,
    TableReader,
    generated_names,
    reading,
    require_unique,
)
from gmm_lightning.datasets._stored import StoredArray, stored_arrays
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


class ArrayReader(TableReader):
    """A .npy file, mapped into memory, or the array `key` of a .npz file.

    Without a key it is `x`, `X`, or the only matrix. Arrays of a .npz file are mapped on demand,
    unless they are compressed. Members that are not asked for are not read.
    """

    random_access = True

    def __init__(self, path: Path, key: str | None, *, mapped: bool) -> None:
        self.path, self._mapped = path, mapped
        with reading(path):
            arrays = stored_arrays(path)
            key = _choose_array(path, arrays, key)
            self.array = self._load_matrix(_readable(arrays.pop(key)))
            self.in_memory = not isinstance(self.array, np.memmap)
            self.names = generated_names(self.array.shape[1])
            self.named = "columns" in arrays
            if self.named:
                self.names = self._load_names(_readable(arrays.pop("columns")), key)
        taken = set(self.names)
        self._extra: dict[str, StoredArray] = {
            name: array
            for name, array in arrays.items()
            if isinstance(array, StoredArray)
            and array.shape == self.array.shape[:1]
            and name not in taken
        }
        self.extra_names = tuple(self._extra)
        self._loaded: dict[str, NDArray[Any]] = {}

    def _load_matrix(self, stored: StoredArray) -> NDArray[Any]:
        """Rows `(N, D)`; a vector is one column."""
        path, shape = self.path, stored.shape
        if stored.dtype.kind not in "fiub":
            kind = "records" if stored.dtype.names else f"dtype {stored.dtype}"
            raise InvalidDataError(f"{path}: expected numbers, got an array of {kind}")
        if len(shape) not in (1, 2):
            raise InvalidDataError(
                f"{path}: expected a matrix of rows (N, D), got an array of shape {shape}"
            )
        if 0 in shape:
            raise InvalidDataError(f"{path} is empty: its array is of shape {shape}")
        array = stored.load(mapped=self._mapped)
        return array[:, None] if array.ndim == 1 else array

    def _load_names(self, stored: StoredArray, key: str) -> tuple[str, ...]:
        """The names of the columns, from an array of them."""
        number, width = math.prod(stored.shape), self.array.shape[1]
        if number != width:
            raise InvalidDataError(
                f"{self.path}: the array columns has {number} names for the {width} columns of "
                f"{key}"
            )
        names = tuple(str(name) for name in stored.load(mapped=False).ravel())
        require_unique(self.path, names)
        return names

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
                x = _as_floats(_take_columns(self.array, index, matrix))
            if extra:
                x = np.column_stack([x, *(values[index] for values in extra)])
            errors.add_block(x, columns, low)
            labels = None
            if label is not None:
                labels = self._column(label)[index].tolist()
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
        if column < len(self.names):
            return self.array[:, column]
        name = self.extra_names[column - len(self.names)]
        if name not in self._loaded:
            with reading(self.path):
                self._loaded[name] = self._extra[name].load(mapped=self._mapped)
        return self._loaded[name]

    def _numeric_column(self, column: int) -> NDArray[Any]:
        array = self._column(column)
        if array.dtype.kind not in "fiub":
            raise InvalidDataError(
                f"{self.path}: expected numbers in {self.all_names[column]}, got an array of dtype "
                f"{array.dtype}"
            )
        return array


def _readable(array: StoredArray | InvalidDataError) -> StoredArray:
    """An array whose header can be read; raises the reason for any other."""
    if isinstance(array, InvalidDataError):
        raise array
    return array


def _choose_array(
    path: Path, arrays: dict[str, StoredArray | InvalidDataError], key: str | None
) -> str:
    """The name of the array that holds the rows."""
    shapes = {n: array.shape for n, array in arrays.items() if isinstance(array, StoredArray)}
    known = format_list((f"{name} {shape}" for name, shape in shapes.items()), 20) or "none"
    if key is not None:
        if key not in arrays:
            raise InvalidArgumentError(f"{path}: there is no array {key!r}; it holds: {known}")
        return key
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    # An array that cannot be read may be the one that is meant.
    broken = [name for name in arrays if name not in shapes]
    for name in ("x", "X", *broken, *(matrices if len(matrices) == 1 else ())):
        if name in arrays:
            return name
    raise InvalidDataError(
        f"{path}: none of its arrays is called x, and not exactly one is a matrix; say which to "
        f"read with key=; it holds: {known}"
    )


def _as_floats(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself if it is native float32 or float64, else a copy in one of these."""
    dtype = np.dtype(np.float64)
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        dtype = np.dtype(np.float32)
    if array.dtype == dtype and array.dtype.isnative and array.flags.aligned:
        return array
    return array.astype(dtype, order="C")


def _take_columns(array: NDArray[Any], index: slice, columns: list[int]) -> NDArray[Any]:
    """Some columns of some rows; a view where they are evenly spaced, in order."""
    steps = set(np.diff(columns).tolist()) or {1}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return array[index, columns[0] : columns[-1] + 1 : step]
    return array[index][:, columns]

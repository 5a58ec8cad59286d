"""Rows of numpy's own files."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.datasets._cells import listed
from gmm_lightning.datasets._faults import Faults
from gmm_lightning.datasets._maps import mapped_members, picked, plain
from gmm_lightning.datasets._source import (
    Block,
    Source,
    generated_names,
    reading,
    require_unique,
)
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


class ArraySource(Source):
    """A .npy file, mapped into memory, or an array of a .npz file.

    Args:
        path: the file.
        key: which array of a .npz file; None: `x`, `X`, or the only matrix.
        mapped: map the arrays of a .npz file too, as far as they are not compressed.
    """

    at_random = True

    def __init__(self, path: Path, key: str | None = None, *, mapped: bool = False) -> None:
        self.path = path
        self.beside: dict[str, NDArray[Any]] = {}
        arrays: dict[str, NDArray[Any]] = {}
        with reading(path), readable(path):
            if path.suffix.lower() == ".npy":
                key = path.stem
                arrays[key] = np.lib.format.open_memmap(path, mode="r")
            else:
                if mapped and zipfile.is_zipfile(path):
                    arrays |= mapped_members(path)
                with path.open("rb") as file:
                    found = np.load(file, allow_pickle=False)
                    # A single array may hide behind the suffix.
                    held = isinstance(found, np.lib.npyio.NpzFile)
                    names = [name for name in (found if held else ()) if name not in arrays]
                    arrays |= {name: found[name] for name in names} if held else {"x": found}
        key = chosen_array(path, arrays, key)
        self.array = as_matrix(path, arrays.pop(key))
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
        rows = (len(self.array),)
        self.beside = {name: array for name, array in arrays.items() if array.shape == rows}
        self.extra = tuple(name for name in self.beside if name not in self.names)

    def numeric(self) -> list[int]:
        """All columns of the matrix."""
        return list(range(len(self.names)))

    def count(self) -> int:
        """The length of the array."""
        return len(self.array)

    def blocks(
        self,
        columns: Sequence[int],
        label: int | None,
        rows: int,
        faults: Faults,
        start: int = 0,
    ) -> Iterator[Block]:
        """Slices of the array as float64; rows are counted from 0."""
        with reading(self.path):
            for at in self._cuts(start, rows):
                x = self._numbers(columns, at)
                faults.add_block(x, columns, at.start)
                yield Block(x, self._labels(label, at, faults))

    def slices(
        self, columns: Sequence[int], label: int | None, rows: int, faults: Faults, start: int = 0
    ) -> Iterator[Block]:
        """Views of the array where it holds plain numbers; looked through, so read from disk."""
        matrix = [column for column in columns if column < len(self.names)]
        with reading(self.path):
            for at in self._cuts(start, rows):
                self._require_whole()
                x = plain(picked(self.array, at, matrix))
                if len(matrix) < len(columns):
                    beside = [self.column(column)[at] for column in columns[len(matrix) :]]
                    x = np.column_stack([x, *beside])
                with np.errstate(over="ignore", invalid="ignore"):
                    # A sum is finite only if every term is, or else it overflows.
                    well = np.isfinite(x.sum())
                if not well:
                    faults.add_block(x, columns, at.start)
                yield Block(x, self._labels(label, at, faults))

    def _cuts(self, start: int, rows: int) -> Iterator[slice]:
        for low in range(start, len(self.array), rows):
            yield slice(low, min(low + rows, len(self.array)))

    def _require_whole(self) -> None:
        """A map of a file that was cut short since would end the process with a bus error."""
        if isinstance(self.array, np.memmap):
            least = self.array.offset + self.array.nbytes
            found = self.path.stat().st_size
            if found < least:
                raise InvalidDataError(
                    f"{self.path} was cut short while it was read: expected {least} bytes for its "
                    f"{len(self.array)} rows, found {found}; write it again"
                )

    def _numbers(self, columns: Sequence[int], at: slice) -> NDArray[np.float64]:
        width = len(self.names)
        if all(column < width for column in columns):
            return np.array(self.array[at, list(columns)], dtype=np.float64, order="C")
        x = np.empty((len(self.array[at]), len(columns)))
        for i, column in enumerate(columns):
            x[:, i] = self.column(column)[at]
        return x

    def column(self, column: int) -> NDArray[Any]:
        """A column of the matrix, or an array beside it, by its position."""
        width = len(self.names)
        if column < width:
            return self.array[:, column]
        name = self.extra[column - width]
        if self.beside[name].dtype.kind not in "fiub":
            raise InvalidDataError(
                f"{self.path}: expected numbers in {name}, got an array of dtype "
                f"{self.beside[name].dtype}"
            )
        return self.beside[name]

    def _labels(self, label: int | None, at: slice, faults: Faults) -> list[Any] | None:
        if label is None:
            return None
        width = len(self.names)
        source = self.array[:, label] if label < width else self.beside[self.extra[label - width]]
        labels = source[at].tolist()
        for i, value in enumerate(labels):
            faults.add_label(label, at.start + i, value)
        return labels


def chosen_array(path: Path, arrays: dict[str, NDArray[Any]], key: str | None) -> str:
    """The name of the array that holds the rows.

    Raises:
        InvalidArgumentError: the name given is not there.
        InvalidDataError: none was given, and there is no single candidate.
    """
    known = listed(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
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


def as_matrix(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Rows `(N, D)`; a vector is one column.

    Raises:
        InvalidDataError: not numbers, or not a matrix.
    """
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
def readable(path: Path) -> Iterator[None]:
    """Say that a file is not what its name promises.

    Raises:
        InvalidDataError: truncated, foreign, or holding objects.
    """
    broken = (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, SyntaxError)
    try:
        yield
    except (*broken, pickle.UnpicklingError) as error:
        raise InvalidDataError(
            f"{path} is not a readable {path.suffix} file of plain numbers (it is empty, cut "
            "short, of another format, or holds Python objects, which are never loaded)"
        ) from error

"""Arrays of numpy's files, mapped into memory where they are stored as plain numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The size of a zip file's local header, and the offset in it of the lengths of the next two fields.
_HEADER, _LENGTHS = 30, 26


def map_members(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file that are stored uncompressed, without reading them.

    Compressed arrays and arrays of Python objects are left out.
    """
    found: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy"):
                continue
            file.seek(member.header_offset + _LENGTHS)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(member.header_offset + _HEADER + name + extra)
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                continue
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, fortran, dtype = read_header(file)
            if not dtype.hasobject and shape and 0 not in shape:
                found[member.filename.removesuffix(".npy")] = np.memmap(
                    path, dtype, "r", file.tell(), shape, "F" if fortran else "C"
                )
    return found


def as_floats(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself if it is native float32 or float64, else a copy in one of these."""
    dtype = np.dtype(np.float64)
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        dtype = np.dtype(np.float32)
    if array.dtype == dtype and array.dtype.isnative and array.flags.aligned:
        return array
    return array.astype(dtype, order="C")


def take_columns(array: NDArray[Any], index: slice, columns: list[int]) -> NDArray[Any]:
    """Some columns of some rows; a view where they are evenly spaced, in order."""
    steps = set(np.diff(columns).tolist()) or {1}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return array[index, columns[0] : columns[-1] + 1 : step]
    return array[index][:, columns]

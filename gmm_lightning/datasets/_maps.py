"""Arrays of numpy's files, mapped into memory wherever they lie there plainly."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of a zip file's local header: its size, and where it says how long two fields after it are.
HEADER, LENGTHS = 30, 26


def mapped_members(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file that are stored uncompressed, without reading them.

    What is compressed, or holds Python objects, is not among them.
    """
    found: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy"):
                continue
            file.seek(member.header_offset + LENGTHS)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(member.header_offset + HEADER + name + extra)
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                continue
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, fortran, dtype = read(file)
            if dtype.hasobject or 0 in shape or not shape:
                continue
            order = "F" if fortran else "C"
            found[member.filename.removesuffix(".npy")] = np.memmap(
                path, dtype, "r", offset=file.tell(), shape=shape, order=order
            )
    return found


def plain(part: NDArray[Any]) -> NDArray[Any]:
    """A part of an array as a fit can take it: itself, or a copy in native float32 or float64."""
    dtype = part.dtype.newbyteorder("=")
    if dtype.kind != "f":
        dtype = np.dtype(np.float64)
    elif dtype.itemsize < 4:
        dtype = np.dtype(np.float32)
    elif dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    if part.dtype == dtype and part.dtype.isnative and part.flags.aligned:
        return part
    return part.astype(dtype, order="C")


def picked(array: NDArray[Any], at: slice, columns: list[int]) -> NDArray[Any]:
    """Some columns of some rows; a view where they are evenly spaced, in order."""
    steps = set(np.diff(columns).tolist()) or {1}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return array[at, columns[0] : columns[-1] + 1 : step]
    return array[at][:, columns]

"""Arrays in numpy's files: their headers are judged before memory is taken for the entries."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.errors import GMMError, InvalidDataError

# Bytes that hold every header that numpy itself reads, and bytes read at a time.
_HEAD, _BLOCK = 1 << 14, 1 << 20
# The size of a zip file's local header, and the offset in it of the lengths of the next two fields.
_LOCAL, _LENGTHS = 30, 26
# Deflate makes nothing smaller than this: a member that claims more is a lie.
_MOST_DEFLATED = 1032
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, of which only the header was read.

    Attributes:
        path: the file.
        shape: of the array.
        dtype: of its entries, which are never Python objects.
        order: `C` or `F`.
        offset: of its first entry: in the file, or in the member where that is compressed.
        member: of a .npz file; None for a .npy file.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Any
    offset: int
    member: zipfile.ZipInfo | None = None

    def load(self, *, mapped: bool) -> NDArray[Any]:
        """The array: mapped where the file holds its plain bytes, else read and verified.

        Args:
            mapped: map members of a .npz file, too, without comparing their checksums.
        """
        with _explain(self.path):
            if self.member is None or (mapped and not self.member.compress_type):
                offset = self.offset + (self.member is not None and self._start_of_member())
                return np.memmap(self.path, self.dtype, "r", offset, self.shape, self.order)
            flat = np.empty(math.prod(self.shape), self.dtype)
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                file.read(self.offset)
                _read_into(file, flat.view(np.uint8))
            return flat.reshape(self.shape, order=self.order)

    def _start_of_member(self) -> int:
        """Where the bytes of a stored member begin in the file."""
        assert self.member is not None
        with self.path.open("rb") as file:
            file.seek(self.member.header_offset + _LENGTHS)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        start = self.member.header_offset + _LOCAL + name + extra
        if start + self.member.file_size > self.path.stat().st_size:
            raise EOFError("the member ends after the file")
        return start


def stored_arrays(path: Path) -> dict[str, StoredArray | InvalidDataError]:
    """Headers of arrays in a .npz file by name, or why one cannot be read; `x` of a .npy file."""
    with _explain(path), path.open("rb") as file:
        # In spite of its suffix a .npz file may be a single array.
        single = file.read(6) == np.lib.format.MAGIC_PREFIX
        if single or path.suffix.lower() == ".npy":
            file.seek(0)
            return {"x": _read_header(path, file, path.stat().st_size)}
        found: dict[str, StoredArray | InvalidDataError] = {}
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                _require_size(path, member)
                # Whatever it is: opening it compares the two places where its name stands.
                with archive.open(member) as content:
                    if member.filename.endswith(".npy"):
                        name = member.filename.removesuffix(".npy")
                        found[name] = _read_member(path, content, member)
        return found


def _require_size(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that claims more bytes than can be packed into its part of the file."""
    packed, size = member.compress_size, member.file_size
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidDataError(
            f"{path}: its member {member.filename!r} is compressed as numpy never does; write it "
            "by np.savez_compressed"
        )
    most = packed * (_MOST_DEFLATED if member.compress_type else 1)
    if packed > path.stat().st_size or size > most:
        raise InvalidDataError(
            f"{path} is damaged: its member {member.filename!r} claims {size} bytes, more than the "
            f"{packed} in the file can hold"
        )


def _read_member(
    path: Path, content: IO[bytes], member: zipfile.ZipInfo
) -> StoredArray | InvalidDataError:
    try:
        with _explain(path):
            return replace(_read_header(path, content, member.file_size), member=member)
    except InvalidDataError as error:
        return error


def _read_header(path: Path, file: IO[bytes], size: int) -> StoredArray:
    """The header of an array in a stream of `size` bytes."""
    head = BytesIO(file.read(_HEAD))
    shape, fortran, dtype = _READERS[np.lib.format.read_magic(head)](head)
    if dtype.hasobject:
        raise ValueError("Python objects are never loaded")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise InvalidDataError(f"{path} is damaged: its header claims the shape {shape}")
    needed, held = math.prod(shape) * max(dtype.itemsize, 1), size - head.tell()
    if needed > held:
        raise InvalidDataError(
            f"{path} is cut short or damaged: its header claims {needed} bytes, an array of shape "
            f"{shape}, and {held} follow"
        )
    return StoredArray(path, shape, dtype, "F" if fortran else "C", head.tell())


def _read_into(file: IO[bytes], room: NDArray[np.uint8]) -> None:
    """Fill a buffer to its end, which is the end of the stream, too."""
    done = 0
    while block := file.read(_BLOCK):
        room[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    if done < len(room):
        raise EOFError("the member is cut short")


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Context that turns errors of numpy's and zip's readers into one sentence about the file."""
    try:
        yield
    except (GMMError, OSError):
        raise
    except Exception as error:
        # Of a damaged header any error may come.
        raise InvalidDataError(
            f"{path} is not a readable {path.suffix} file of plain numbers (it is empty, cut "
            "short, damaged, of another format, or holds Python objects, which are never loaded)"
        ) from error

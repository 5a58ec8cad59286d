"""Damage to a file as disks and networks do it: single bits, and ends that are missing."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from gmm_lightning.errors import GMMError


def flipped(whole: bytes, bits: list[int]) -> Iterator[bytes]:
    """A file, each time with one other bit changed."""
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def truncated(whole: bytes, count: int) -> Iterator[bytes]:
    """Beginnings of a file of evenly spaced lengths, and the file without its last byte."""
    yield from (whole[: len(whole) * i // count] for i in range(count - 1))
    yield whole[:-1]


def some_bits(whole: bytes, count: int, seed: int) -> list[int]:
    """Numbers of bits, spread over the file."""
    return sorted(random.Random(seed).sample(range(8 * len(whole)), count))


def header_bits(path: Path, count: int, seed: int) -> list[int]:
    """Numbers of bits in the headers of a zip file: before each record, and after the last."""
    with zipfile.ZipFile(path) as archive:
        starts = [member.header_offset for member in archive.infolist()]
        places = [*range(archive.start_dir, path.stat().st_size)]
    places += [start + i for start in starts for i in range(30)]
    bits = [8 * place + i for place in places for i in range(8)]
    return sorted(random.Random(seed).sample(bits, count))


def survivors(path: Path, damaged: Iterator[bytes], read: Callable[[], Any]) -> tuple[int, int]:
    """How many damaged copies are refused in one line, and how many are read as the file itself.

    Raises:
        AssertionError: what is read is not what the file held.
    """
    whole, expected = path.read_bytes(), read()
    refused = harmless = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            found = read()
        except GMMError as error:
            refused += is_sentence(error, path)
        else:
            assert identical(found, expected)
            harmless += 1
    path.write_bytes(whole)
    return refused, harmless


def is_sentence(error: GMMError, path: Path) -> bool:
    """Whether an error is one line that names the file."""
    return "\n" not in str(error) and path.name in str(error)


def identical(first: Any, second: Any) -> bool:
    """Nested equality, of tensors bit for bit."""
    if isinstance(first, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return same and first.numpy().tobytes() == second.numpy().tobytes()
    if isinstance(first, dict):
        return list(first) == list(second) and all(identical(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(identical, first, second))
    return type(first) is type(second) and repr(first) == repr(second)

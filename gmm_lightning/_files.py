"""Atomic writes, by which a file is either complete or absent, and reads of bounded size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """A path to write to, which is moved to `path` when the block ends without an error.

    After an error it is removed, with the folders that were made for it, and an older file at
    `path` stays unchanged. It is the path of a new file, never of a link to another one.

    Args:
        path: where the file shall be; missing folders are made.
        unique: name the unfinished file after this process, because others may write the same
            file. Otherwise a file left by a killed process is overwritten.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "new", "numbers.txt")
        >>> with atomic_write(path) as partial:
        ...     _ = partial.write_text("1 2 3")
        >>> path.read_text(), [p.name for p in path.parent.iterdir()]
        ('1 2 3', ['numbers.txt'])
        >>> folder.cleanup()
    """
    made = [folder for folder in path.parents if not folder.exists()]
    owner = f".{os.getpid()}" if unique else ""
    partial = path.with_name(f"{path.name}{owner}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_new(partial)
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        # A folder that another process uses meanwhile is not empty, and stays.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def _make_new(path: Path) -> None:
    """Make an empty file in place of whatever a killed process, or somebody else, left there."""
    with suppress(FileNotFoundError):
        path.unlink()
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    # With the permissions that open() gives: those that the umask leaves.
    os.close(os.open(path, flags, 0o666))


def read_sized(path: Path) -> bytes:
    """The bytes of a file, as many as its size says.

    Files of the system behind a link (`/proc/...`) claim none, and may go on without end.
    """
    with path.open("rb") as file:
        return file.read(path.stat().st_size)

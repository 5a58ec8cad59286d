"""One writer per folder: a lock that the kernel releases, whatever becomes of its holder."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_NAME = ".lock"
# A link in its place would lead to a file of somebody else.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
# What file systems answer that know no locks.
_WITHOUT = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FolderLock:
    """A lock on a folder, held by this process until it is released or the process dies.

    Args:
        folder: an existing folder.

    Attributes:
        missing: why the folder could not be locked; None if it is.

    Raises:
        BlockingIOError: another process holds it; the message names that process.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self.missing: str | None = None
        while True:
            self._descriptor = os.open(self._path, _FLAGS, 0o644)
            try:
                self._acquire()
                if self._in_place():
                    break
            except BaseException:
                os.close(self._descriptor)
                raise
            # Its former holder removed the file in between.
            os.close(self._descriptor)
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())
        except OSError:
            self.release()
            raise

    def _acquire(self) -> None:
        if fcntl is None:
            self.missing = "this system has no file locks"
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _WITHOUT:
                self.missing = f"its file system has no locks ({error.strerror})"
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = os.read(self._descriptor, 300).decode(errors="replace")
            raise BlockingIOError(f"process {holder or 'that does not say its number'}") from None

    def _in_place(self) -> bool:
        """Whether the file that is locked is still the one in the folder."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file and let others in."""
        with suppress(OSError):
            if self._in_place():
                self._path.unlink()
        os.close(self._descriptor)

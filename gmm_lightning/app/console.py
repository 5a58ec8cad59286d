"""The console of a command, whose reader may leave: `gmm-show run=... | head -1`."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Outlet(io.FileIO):
    """Writes to a descriptor; once that fails, everything goes nowhere.

    Args:
        descriptor: where to write to.
        required: whether a failure is an error, unless it is only the reader who left.
    """

    def __init__(self, descriptor: int, *, required: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._required = required

    def write(self, data: Any, /) -> int:
        """Write as much as the descriptor takes."""
        try:
            return super().write(data) or 0
        except OSError as error:
            # Python writes what is left once more when it ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._required and not isinstance(error, BrokenPipeError):
                raise
            return len(data)


def prepare_console(*, required: bool) -> None:
    """Let a command outlive whoever reads what it prints, and closed streams (`>&-`).

    Args:
        required: whether what is printed is what the command is for, so that a full disk is an
            error; a training goes on.
    """
    for descriptor in range(3):
        # A free descriptor would be that of the next file, and what C libraries print go there.
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            # Of a notebook or a test.
            continue
        outlet = io.BufferedWriter(_Outlet(descriptor, required=required))
        layout = ("encoding", "errors", "line_buffering", "write_through")
        options = {key: getattr(stream, key) for key in layout if stream is not None}
        setattr(sys, name, io.TextIOWrapper(outlet, **options))

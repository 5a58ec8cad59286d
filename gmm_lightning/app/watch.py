"""The processes of a run watch each other: when one is killed all end, and one says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gmm_lightning.app.failures import resume_hint
from gmm_lightning.app.processes import (
    Interrupted,
    LostProcessError,
    first_process,
    use_launcher,
)

# Messages of gloo and NCCL when another process has ended.
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "failed to recv",
    "remote process exited",
    "NCCL communicator was aborted",
)
# Seconds between two looks, and until a process that does not notice by itself is ended: most do
# at the next exchange, and tidy up.
_PERIOD, _GRACE = 0.5, 5.0


class ProcessWatch:
    """While it is entered, no process of a run outlives another one that was killed.

    The first process looks after those that it has started, each of them after the first one.

    Args:
        folder: of the run.

    Raises:
        LostProcessError: in place of what the loss of a process has raised.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._first = folder, first_process()
        self._started: list[subprocess.Popen[Any]] = []
        self._over = threading.Event()

    def __enter__(self) -> Self:
        use_launcher(self._watch)
        if self._first is not None:
            self._watch([])
        return self

    def _watch(self, started: list[subprocess.Popen[Any]]) -> None:
        """Look after processes from a thread of its own."""
        self._started = started
        threading.Thread(target=self._look, name="process-watch", daemon=True).start()

    def end(self) -> None:
        """Stop looking: what the others do no longer matters."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(_PERIOD):
            loss = self._loss()
            if loss is not None and not self._over.wait(_GRACE):
                self._end_others()
                print(f"gmm-train: {loss}", file=sys.stderr, flush=True)
                os._exit(1)

    def _loss(self) -> str | None:
        """The sentence on a process that has ended too early, or None."""
        if self._first is not None:
            gone = os.getppid() != self._first
            how = "the first process of this run was killed" if gone else None
        else:
            codes = [(process.poll() or 0, rank) for rank, process in enumerate(self._started, 1)]
            # Those that a signal has killed come first: others may have ended because of them.
            code, rank = min(codes, key=lambda pair: (pair[0] >= 0, -abs(pair[0])), default=(0, 0))
            how = _ending(code, rank) if code else None
        return None if how is None else self._sentence(how)

    def _sentence(self, how: str) -> str:
        return f"{how}, so this one stops as well; {resume_hint(self._folder)}".removesuffix("; ")

    def _end_others(self) -> None:
        for process in self._started:
            process.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, Interrupted):
            self.end()
            return
        lost = isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST_PEER)
        several, until = self._first is not None or bool(self._started), time.monotonic() + _GRACE
        # A failing first process ends the others before it speaks: they wait for that, and say
        # something only if it goes on without them or was killed.
        waits = several and (lost or self._first is not None)
        while (loss := self._loss()) is None and waits and time.monotonic() < until:
            time.sleep(_PERIOD / 10)
        self.end()
        self._end_others()
        if lost and loss is None and self._first is not None:
            raise SystemExit(1)
        if lost:
            reason = loss or self._sentence("another process of this run ended")
            raise LostProcessError(reason) from error


def _ending(code: int, rank: int) -> str:
    """How a process ended."""
    if code > 0:
        return f"process {rank} of this run ended with exit code {code}"
    reason = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    return f"process {rank} of this run was killed ({name}{reason})"

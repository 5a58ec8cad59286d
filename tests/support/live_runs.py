"""Real commands while they run: waiting for what they do, and what the system says of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.lightning_runs import HANG

Started = Callable[..., subprocess.Popen[str]]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait, however slow the machine is; only what hangs is given up."""
    until = time.monotonic() + HANG
    while not holds():
        if time.monotonic() > until:
            pytest.fail(f"never came: {what}")
        time.sleep(0.005)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait for a file of a process that is still running."""

    def written() -> bool:
        if not path.exists() and process.poll() is not None:
            pytest.fail(f"ended without {path}: {process.communicate()}")
        return path.exists()

    wait_until(written, str(path))


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in listed.stdout.split()]


def state(pid: int) -> str:
    """How `ps` calls the state of a process; empty if there is none."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout[:1]

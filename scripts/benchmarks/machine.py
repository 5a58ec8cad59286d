"""The machine, its threads, and the processes that a benchmark starts."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PEERS = ("scikit-learn", "torchgmm", "tgmm", "pomegranate")
SCRIPTS = Path(__file__).parent.parent
# Seconds that a process of its own may take.
PATIENCE = 300


def describe(device: str) -> dict[str, Any]:
    """Processor, system and versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    machine: dict[str, Any] = {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    for name in ("torch", "numpy", *PEERS):
        machine[name] = version(name)
    return machine


def version(name: str) -> str:
    """Of an installed distribution, or `not installed`."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads for torch, and for the libraries that scikit-learn uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        limits = contextlib.nullcontext()
    else:
        limits = threadpool_limits(number)
    try:
        with limits:
            # It may have set torch's threads, too, and may not have known of them.
            torch.set_num_threads(number)
            yield
    finally:
        torch.set_num_threads(before)


def child(module: str, *arguments: object, threads: int) -> str:
    """What a module of this folder prints, run as a program in a process of its own.

    Raises:
        RuntimeError: it failed, with the end of what it wrote, or takes too long.
    """
    ambient = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {k: v for k, v in os.environ.items() if k not in ambient}
    path = [str(SCRIPTS), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(threads)
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complained = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{module}: no end after {PATIENCE} s; is the machine busy?") from None
    finally:
        # Whatever ended it, the processes that it started end with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"{module} {arguments}: {complained[-2000:]}")
    return said

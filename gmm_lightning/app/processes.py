"""Several processes under Hydra: starting and ending them, and the rank of this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd

from gmm_lightning.app.overrides import quoted

# Variables that Lightning's launcher sets in the environment of the first process.
_LAUNCHED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Names the first process to those that it starts.
_FIRST = "GMM_LIGHTNING_FIRST_PROCESS"


class Interrupted(Exception):
    """A signal ended the run after a whole pass; everything is on disk."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class LostProcessError(Exception):
    """Another process of the run ended early; the message says which, and how to go on."""


def rank_from_environment() -> int:
    """This process's rank, as set by Lightning, torchrun or SLURM; else 0."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        value = os.environ.get(name)
        if value is not None and value.isdigit():
            return int(value)
    return 0


def started_from_outside() -> bool:
    """Whether torchrun or SLURM started this process, not Lightning."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ


def first_process() -> int | None:
    """The number of the process that has started this one as another one of its run, if any."""
    first = os.environ.get(_FIRST, "")
    is_other = rank_from_environment() > 0 and not started_from_outside()
    return int(first) if is_other and first.isdigit() else None


def _child_command(local_rank: int) -> tuple[list[str], str]:
    """The command and the folder of another process of this job.

    Lightning repeats the command line, which in a sweep would start the whole sweep again in
    every process. The job's own overrides name the one job instead.
    """
    config = HydraConfig.get()
    command = [
        sys.executable,
        os.path.abspath(sys.argv[0]),
        *config.overrides.task,
        f"hydra.run.dir={quoted(config.runtime.output_dir)}",
        "hydra.mode=RUN",
        f"hydra.job.name={quoted(f'{config.job.name}_process_{local_rank}')}",
        "hydra/job_logging=stdout",
    ]
    return command, get_original_cwd()


def use_launcher(watch: Callable[[list[Any]], None]) -> None:
    """Make Lightning start further processes by the job's own command.

    Args:
        watch: called with those processes, instead of Lightning's observer, which kills this
            process without a word when one of them ends.
    """
    from lightning.pytorch.strategies.launchers import subprocess_script

    # Private names of Lightning 2.5 and 2.6; tests/app/test_sweep.py runs a real sweep with them,
    # tests/app/test_signals.py kills processes.
    launcher: Any = subprocess_script
    launcher._hydra_subprocess_cmd = _child_command
    launcher._launch_process_observer = watch
    if rank_from_environment() == 0:
        os.environ[_FIRST] = str(os.getpid())


def leave_group() -> None:
    """End the process group after a fit, so that the next job of a sweep can start its own."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    if not started_from_outside() and rank_from_environment() == 0:
        for name in (*_LAUNCHED, _FIRST):
            os.environ.pop(name, None)

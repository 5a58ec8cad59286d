"""Several processes under Hydra: starting and ending them, and the rank of this one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd

# Variables that Lightning's launcher sets in the environment of the first process.
_LAUNCHED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Interrupted(Exception):
    """A signal ended the run after a whole pass; everything is on disk."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


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
        f"hydra.run.dir='{config.runtime.output_dir}'",
        "hydra.mode=RUN",
        f"hydra.job.name={config.job.name}_process_{local_rank}",
        "hydra.output_subdir=null",
        "hydra/job_logging=stdout",
    ]
    return command, get_original_cwd()


def use_child_command() -> None:
    """Make Lightning start further processes by the job's own command."""
    from lightning.pytorch.strategies.launchers import subprocess_script

    # A private name of Lightning 2.5 and 2.6; tests/app/test_sweep.py runs a real sweep with it.
    launcher: Any = subprocess_script
    launcher._hydra_subprocess_cmd = _child_command


def leave_group() -> None:
    """End the process group after a fit, so that the next job of a sweep can start its own."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    if not started_from_outside() and rank_from_environment() == 0:
        for name in _LAUNCHED:
            os.environ.pop(name, None)


def discard_unstarted_run(since: float) -> None:
    """Remove the folder of a run that failed before its first batch.

    Training makes the folder of checkpoints when it starts; until then there are only the
    settings, an empty log and the loggers' headers. A folder that holds anything older than the
    command, which began at the time `since`, belongs to the user and is not touched.
    """
    config = HydraConfig.get()
    folder = Path(config.runtime.output_dir)
    started = (folder / "checkpoints").exists() or (folder / "metrics.json").exists()
    older = any(path.lstat().st_mtime < since - 0.1 for path in folder.rglob("*"))
    if rank_from_environment() > 0 or started or older:
        return
    for name in (".hydra", "tensorboard", "csv"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for log in folder.glob(f"{config.job.name}*.log"):
        log.unlink()
    here = Path(config.runtime.cwd)
    for empty in (folder, *(p for p in folder.parents if here in p.parents)):
        try:
            empty.rmdir()
        except OSError:
            return

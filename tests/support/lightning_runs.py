"""Small fits with Lightning, and commands run as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from gmm_lightning import GMMLayer
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    GMMModule,
    InitializeCallback,
    VBCallback,
)

ROOT = Path(__file__).parents[2]
# Seconds after which a process is taken to hang: a hundred times what it needs by itself.
HANG = 1200
# What differs between machines, and would change what a child process does.
AMBIENT = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH")


def trainer(*callbacks: L.Callback, max_epochs: int = 3, **options: Any) -> L.Trainer:
    """A trainer that writes nothing unless it is told to.

    Two processes wait for each other longer than any test allows, so that a hang is never taken
    for an end: the limit of `script` ends it.
    """
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "precision": "64-true",
    }
    given = quiet | {"max_epochs": max_epochs} | options
    given["enable_checkpointing"] |= any(
        isinstance(c, L.pytorch.callbacks.Checkpoint) for c in callbacks
    )
    if given["devices"] == 2:
        given["strategy"] = DDPStrategy(process_group_backend="gloo", timeout=timedelta(minutes=30))
    return L.Trainer(callbacks=list(callbacks), **given)


def adam(lr: float = 0.01) -> Any:
    """An optimizer factory."""
    return partial(torch.optim.Adam, lr=lr)


def fitted(
    x: Any,
    fit: str = "em",
    *callbacks: L.Callback,
    covariance: Any = "full",
    priors: Any = None,
    num_components: int = 3,
    max_epochs: int = 3,
    data: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[GMMModule, L.Trainer]:
    """A module after a fit by `em`, `sgd` or `vb`, and its trainer."""
    datamodule = ArrayDataModule(x, **{"shuffle": fit == "sgd", **(data or {})})
    layer = GMMLayer(datamodule.num_features, num_components, covariance, priors)
    module = GMMModule(layer, adam() if fit == "sgd" else None)
    em = {"em": [EMCallback()], "vb": [VBCallback()]}.get(fit, [])
    ckpt_path = options.pop("ckpt_path", None)
    run = trainer(InitializeCallback(), *em, *callbacks, max_epochs=max_epochs, **options)
    run.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    return module, run


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of everything that a checkpoint holds of a module."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Equal bit for bit, values that are not known yet included."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name].nan_to_num(), second[name].nan_to_num()) for name in first
    )


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest absolute difference of any entry."""
    assert first.keys() == second.keys()
    return max(float((first[n].double() - second[n].double()).abs().max()) for n in first)


def command(
    *arguments: str, cwd: Path, timeout: float = HANG, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python scripts/train.py` in a folder; a hang kills the whole process group and fails.

    Args:
        arguments: what is typed.
        cwd: where it is typed: `outputs/` appears here.
        timeout: seconds until it is killed.
        path: the checkout to use instead of this one.
    """
    return script(
        str((path or ROOT) / "scripts" / "train.py"),
        *arguments,
        cwd=cwd,
        timeout=timeout,
        path=path,
    )


def script(
    *arguments: str,
    cwd: Path,
    timeout: float = HANG,
    path: Path | None = None,
    extra: tuple[Path, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """A python program in a process group of its own; `extra` goes on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in AMBIENT}
    search = os.pathsep.join(map(str, (path or ROOT, *extra)))
    environment |= {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"no end after {timeout} s: {arguments}\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def the_run(folder: Path) -> Path:
    """The only run folder under `outputs/`."""
    found = [path.parent for path in folder.glob("outputs/*/*/.hydra")]
    assert len(found) == 1, found
    return found[0]

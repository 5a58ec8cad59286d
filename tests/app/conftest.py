"""Commands in this process: composed, run, and cleaned up after."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from matplotlib.figure import Figure
from omegaconf import DictConfig
from support.csv_run import named, things, write_csv
from support.lightning_runs import AMBIENT, ROOT

from gmm_lightning.app import report
from gmm_lightning.app.command import run
from gmm_lightning.app.configs import config_dir
from gmm_lightning.app.overrides import quoted
from gmm_lightning.errors import GMMError
from gmm_lightning.training import logger


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Products are small: several threads, beside other tests, would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def _unchanged() -> Iterator[None]:
    """Nothing that a command sets outlives it: seeds, log handlers, Hydra's globals."""
    root = logging.getLogger()
    handlers, level, state = list(root.handlers), root.level, Singleton.get_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, "raiseExceptions", True)
        patch.setattr(threading, "excepthook", threading.excepthook)
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(name, "0")
        yield
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    GlobalHydra.instance().clear()
    Singleton.set_state(state)


@pytest.fixture(autouse=True)
def _as_typed() -> Iterator[None]:
    """float32 as for a user, and nothing that a command sets outlives its test."""
    torch.set_default_dtype(torch.float32)
    with _unchanged():
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pictures, which take longer than a fit and are drawn in other tests."""
    monkeypatch.setattr(report, "draw_mixture", lambda *_: None)
    monkeypatch.setattr(report, "save_figure", lambda *_: None)
    monkeypatch.setattr(logger, "draw_mixture", lambda *_: Figure(figsize=(1, 1)))


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., DictConfig]:
    """The configuration of a command line, with the test's folder for its outputs."""

    def make(*overrides: str, name: str = "train") -> DictConfig:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            # A test may train several times.
            mine = ["overwrite=true"] if name == "train" else []
            return compose(name, [*overrides, *mine, f"paths.output_dir={quoted(tmp_path)}"])

    return make


@dataclass(frozen=True)
class Failure:
    """How a command ended."""

    code: int
    message: str


@pytest.fixture
def failing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Failure]:
    """Run a command in an empty folder and expect it to fail in one sentence."""
    monkeypatch.chdir(tmp_path)

    def fail(*arguments: str, name: str = "train") -> Failure:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            run(name)
        value: Any = caught.value.code
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        # Python prints a text and exits with 1.
        code, sentence = (1, value) if isinstance(value, str) else (int(value), printed)
        assert len(sentence.strip().splitlines()) == 1, sentence
        return Failure(code, sentence)

    return fail


@pytest.fixture
def saying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command in an empty folder, on the run in `run`, and return what it says."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *words: str) -> str:
        where = "hydra.run.dir=run" if name == "train" else "run=run"
        monkeypatch.setattr(sys, "argv", [f"{name}.py", where, *words])
        capfd.readouterr()
        run(name)
        said = capfd.readouterr()
        return said.out + said.err

    return call


@pytest.fixture
def refused(
    asked: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Call a command on its configuration, in an empty folder, and return why it refuses.

    What becomes of that, one sentence and an exit code, is the same for all: see `failing`.
    """
    monkeypatch.chdir(tmp_path)

    def call(name: str, *overrides: str) -> str:
        task = getattr(importlib.import_module(f"gmm_lightning.app.{name}"), name)
        with pytest.raises((GMMError, HydraException)) as caught:
            task(asked(name, *overrides))
        wrapped = isinstance(caught.value, HydraException)
        return str(caught.value.__cause__ if wrapped else caught.value)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `things.csv`, which lies two folders above it; not to be changed.

    Of 300 rows 210 are for training, 30 for validation and 60 for a test.
    """
    folder = tmp_path_factory.mktemp("trained")
    x, kind = things(300, seed=0)
    write_csv(folder / "things.csv", named(x) | {"kind": kind})
    words = ("data=file", "data.path=things.csv", "data.label=kind", "data.test_fraction=0.2")
    words += ("priors=niw", "fit.max_iter=8", "fit.tol=0", "callbacks.progress=null")
    with _unchanged(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", *words, "hydra.run.dir=outputs/run"])
        run("train")
    return folder / "outputs" / "run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The same run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "copied"))


@pytest.fixture
def asked() -> Callable[..., DictConfig]:
    """The configuration of a command that reads a run."""

    def make(name: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose(name, list(overrides))

    return make


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a run in a process group of its own, which does not outlive the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(folder: Path, *words: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k not in AMBIENT}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        run = f"hydra.run.dir={quoted(folder)}"
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "train.py"), *words, run],
            cwd=folder.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

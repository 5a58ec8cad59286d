"""Commands in this process: composed, run, and cleaned up after."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import DictConfig
from things import train_things

from gmm_lightning.app.configs import config_dir


@pytest.fixture(autouse=True)
def _as_typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """float32 as for a user, and nothing that a command sets outlives its test."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    torch.set_default_dtype(torch.float32)
    root = logging.getLogger()
    handlers, level, hydra = list(root.handlers), root.level, Singleton.get_state()
    yield
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    GlobalHydra.instance().clear()
    Singleton.set_state(hydra)


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., DictConfig]:
    """The configuration of a command line, with the test's folder for its outputs."""

    def make(*overrides: str, name: str = "train") -> DictConfig:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose(name, [*overrides, f"paths.output_dir='{tmp_path}'"])

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

    def run(*arguments: str, name: str = "train") -> Failure:
        main = importlib.import_module(f"gmm_lightning.app.{name}").main
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        value: Any = caught.value.code
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        # Python prints a text and exits with 1.
        code, sentence = (1, value) if isinstance(value, str) else (int(value), printed)
        assert len(sentence.strip().splitlines()) == 1, sentence
        return Failure(code, sentence)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `things.csv`, which lies two folders above it; not to be changed."""
    return train_things(tmp_path_factory.mktemp("trained"))


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

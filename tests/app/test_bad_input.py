"""What a person gets wrong: one sentence, and nothing half-written."""

from __future__ import annotations

import errno
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from omegaconf import DictConfig
from support.csv_run import named, things, write_csv
from support.lightning_runs import same

from gmm_lightning.app import report
from gmm_lightning.app.command import run as run_command
from gmm_lightning.app.report import write_json
from gmm_lightning.app.train import train
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import GMMModule

Compose = Callable[..., DictConfig]
Failing = Callable[..., Any]

FAITHFUL = ("data=faithful", "logger=none", "callbacks.progress=null")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit=sgd optimizer=nope", "unknown option optimizer=nope; known are: adam, adamw, none"),
        ("fit=sgd scheduler=nope", "unknown option scheduler=nope; known are: cosine, none, step"),
        ("optimizer=adam", "EM takes no optimizer; choose fit=sgd for gradient descent"),
        ("fit=sgd model.optimizer._target_=torch.optim.Nope", "torch.optim.Nope"),
        ("fit=sgd scheduler=step +model.scheduler.nope=1", "this scheduler cannot be made: "),
        ("trainer.devices=nope", "devices"),
    ],
)
def test_settings(failing: Failing, tmp_path: Path, words: str, said: str) -> None:
    failure = failing(*FAITHFUL, *words.split())
    assert failure.code == 1
    assert said in failure.message
    assert {path.name for path in tmp_path.rglob("*")} <= {"outputs"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "fit=em_then_sgd optimizer=adamw",
            "EM takes no optimizer; the second phase is set by fit.then.model.optimizer",
        ),
        ("fit=sgd optimizer=none", "gradient descent needs an optimizer, such as optimizer=adam"),
        (
            "fit=sgd scheduler=step model.scheduler.step_size=0",
            "model.scheduler.step_size must be an integer >= 1, got 0",
        ),
        ("fit.tol=nan", "fit.tol must be a finite number >= 0, got nan"),
        ("fit.max_iter=2.5", "fit.max_iter must be an integer >= 1, got 2.5"),
        ("fit=sgd fit.batch_size=0", "fit.batch_size must be an integer >= 1, got 0"),
        ("fit=sgd fit.clip=-1", "fit.clip must be a finite number >= 0, got -1"),
        ("fit=sgd fit.patience=-1", "fit.patience must be an integer >= 0, got -1"),
        (
            "fit=em_then_sgd fit.sgd.tol=-1e-3",
            "fit.sgd.tol must be a finite number >= 0, got -0.001",
        ),
        ("fit=em_then_sgd fit.sgd.max_iter=0", "fit.sgd.max_iter must be an integer >= 1, got 0"),
        ("fit=em_then_sgd fit.sgd.batch_size=0", "fit.sgd.batch_size must be an integer >= 1"),
        ("fit=em_then_sgd fit.sgd.clip=a", "fit.sgd.clip must be a finite number >= 0, got 'a'"),
        ("fit.num_restarts=0", "fit.num_restarts must be an integer >= 1, got 0"),
        ("seed=abc", "seed must be an integer >= 0, got 'abc'"),
    ],
)
def test_a_fit_out_of_range_is_refused_before_data_are_read(
    composed: Compose, words: str, said: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(said)):
        train(composed("data=file", "data.path=nowhere.csv", *words.split()))


def test_a_failing_run_takes_nothing_that_is_not_its_own(failing: Failing, tmp_path: Path) -> None:
    mine = [tmp_path / "csv" / "mine.csv", tmp_path / "tensorboard" / "a", tmp_path / "train.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        os.utime(path, (1e9, 1e9))
    failing("data=file", "data.path=csv/nowhere.csv", "hydra.run.dir=.")
    assert all(path.read_text() == "mine" for path in mine)


# -- small and odd files ------------------------------------------------------------------------

FILE = ("data=file", "logger=none", "callbacks.progress=null")


@pytest.mark.parametrize("family", ["full", "tied_diag"])
@pytest.mark.parametrize("content", ["one row", "one column", "constant", "constant column"])
def test_odd_files_are_fitted(composed: Compose, tmp_path: Path, content: str, family: str) -> None:
    x, _ = things(40, seed=1)
    columns = {
        "one row": named(x[:1]),
        "one column": named(x, "width"),
        "constant": {"a": [7000] * 40, "b": [1e-3] * 40},
        "constant column": named(x, "mass") | {"b": [1e-3] * 40},
    }[content]
    path = write_csv(tmp_path / "odd.csv", columns)
    k = 1 if content == "one row" else 2
    few = (f"cov={family}", f"model.layer.num_components={k}", "fit.max_iter=3")
    metrics = train(composed(*FILE, f"data.path={path}", "data.val_fraction=0", *few))
    assert math.isfinite(metrics["log_likelihood"])
    module = GMMModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    means = module.distribution().means.detach()
    for j, values in enumerate(columns.values()):
        assert float(means[:, j].min()) >= min(values) - 1e-9 * abs(min(values))
        assert float(means[:, j].max()) <= max(values) + 1e-9 * abs(max(values))


def test_one_row_cannot_be_split(failing: Failing, tmp_path: Path) -> None:
    write_csv(tmp_path / "one.csv", {"a": [1.0], "b": [2.0]})
    failure = failing(*FILE, "data.path=one.csv")
    assert "there is 1 row, so none can be set aside (val_fraction=0.1)" in failure.message


def test_a_label_that_is_not_there(failing: Failing, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"a": [1.0, 2.0, 3.0], "b": [2.0, 1.0, 5.0]})
    failure = failing(*FILE, "data.path=a.csv", "data.label=kind")
    assert "there is no label column 'kind'; the columns are: a, b" in failure.message


# -- a full disk --------------------------------------------------------------------------------


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From the given checkpoint on, half a file is written and then there is no room."""
    save, calls = L.Trainer.save_checkpoint, []

    def fill(self: L.Trainer, path: Any, weights_only: bool | None = None) -> None:
        calls.append(path)
        save(self, path, weights_only)
        if len(calls) > after:
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(L.Trainer, "save_checkpoint", fill)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*FAITHFUL, "fit.tol=0", "fit.max_iter=6", "callbacks.checkpoint.every_n_passes=2")
    with monkeypatch.context() as patch:
        full_disk(patch, after=2)
        failure = failing(*words, "hydra.run.dir=run")
    assert failure.code == 1
    assert "No space left on device" in failure.message
    run = tmp_path / "run"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert not (run / "metrics.json").exists()
    part = GMMModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt").state_dict()
    # With room again, the run goes on as if nothing had been.
    for arguments in (("resume=run",), (*words, "hydra.run.dir=whole")):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        run_command("train")
    resumed, whole = (
        GMMModule.load_from_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt").state_dict()
        for name in ("run", "whole")
    )
    assert same(resumed, whole)
    assert not same(part, whole)


def test_no_room_for_the_first_checkpoint(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, after=0)
    failure = failing(*FAITHFUL, "hydra.run.dir=run")
    assert "No space left on device" in failure.message
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == []
    failure = failing("resume=run")
    assert "there is nothing to resume: no checkpoint at run/checkpoints/last.ckpt" in (
        failure.message
    )


def test_no_room_for_the_report(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str, *arguments: Any, **options: Any) -> int:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(report.Path, "write_text", full)
        failure = failing(*FAITHFUL, "fit.max_iter=2", "hydra.run.dir=run")
    assert "No space left on device" in failure.message
    run = tmp_path / "run"
    assert not list(run.rglob("*.partial"))
    assert not (run / "metrics.json").exists()
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_a_report_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]

"""What a person gets wrong: one sentence, and nothing half-written."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from matplotlib.figure import Figure
from omegaconf import DictConfig
from support.csv_run import named, things, write_csv
from support.lightning_runs import same
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from gmm_lightning.app import report
from gmm_lightning.app.command import run as run_command
from gmm_lightning.app.failures import explain
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
        (
            "fit=sgd scheduler=nope",
            "unknown option scheduler=nope; known are: cosine, none",
        ),
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
        ("seed=4294967296", "seed must be below 2**32, as numpy asks, got 4294967296"),
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
    run = tmp_path / "run"
    assert failure.message.endswith(f"make room, and go on with resume={run}")
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


@pytest.mark.parametrize("name", ["config.yaml", "density.json", "metrics.json", "mixture.png"])
def test_no_room_for_a_file(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name != name:
            return whole(self, target)
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tmp_path / "run"
    monkeypatch.setattr(report, "draw_mixture", lambda *_: Figure(figsize=(1, 1)))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        message = failing(*FAITHFUL, "fit.max_iter=2", "hydra.run.dir=run").message
    assert f"the disk of {run} is full (No space left on device): make room, and " in message
    assert not list(tmp_path.rglob("*.partial"))
    if name == "config.yaml":
        # Before the first pass: nothing is left.
        assert message.endswith("start again")
        assert not run.exists()
        return
    assert message.endswith(f"go on with resume={run}")
    assert not (run / "metrics.json").exists()
    monkeypatch.setattr(sys, "argv", ["train.py", f"resume={run}"])
    run_command("train")
    assert (run / "metrics.json").is_file()


def test_no_room_for_events(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written by a thread of TensorBoard, which hands its error on."""
    written, run = LocalFileSystem.append, tmp_path / "run"

    def full(self: LocalFileSystem, name: str, *arguments: Any) -> None:
        if (run / "checkpoints" / "last.ckpt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        written(self, name, *arguments)

    monkeypatch.setattr(LocalFileSystem, "append", full)
    words = ("data=faithful", "callbacks.progress=null", "fit.max_iter=30", "fit.tol=0")
    message = failing(*words, "callbacks.mixture.every_n_passes=50", "hydra.run.dir=run").message
    assert f"the disk of {run} is full" in message
    assert message.endswith(f"go on with resume={run}")
    assert GMMModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota of the disk of RUN is used up"),
        (OSError(errno.EROFS, "Read-only file system", "RUN/x"), "RUN cannot be written"),
        (OSError(errno.EMFILE, "Too many open files"), "no more files can be opened for RUN"),
        (OSError(errno.EFBIG, "File too large"), "a file in RUN would be larger than is allowed"),
        # What happens elsewhere is not blamed on the folder of the run.
        (PermissionError(errno.EACCES, "Permission denied", "/data/x.npy"), "'/data/x.npy'"),
        (OSError(errno.ENOSPC, "No space left", "/x/a", None, "RUN/b"), "the disk of RUN is full"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/x.npy"), "'/data/x.npy'"),
    ],
)
def test_what_the_system_refuses(tmp_path: Path, error: OSError, said: str) -> None:
    run = tmp_path / "it's"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    for name in ("filename", "filename2"):
        value = getattr(error, name)
        if isinstance(value, str):
            setattr(error, name, value.replace("RUN", str(run)))
    sentence = explain(error, run)
    assert sentence is not None
    assert said.replace("RUN", str(run)) in sentence
    # As typed in a shell.
    assert sentence.endswith(f"go on with {shlex.quote(f'resume={run}')}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "for 10 rows"),
        (np.exceptions.AxisError("axis"), None),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0"), "20.00 GiB at"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), "for 10 rows"),
        (RuntimeError("shapes do not fit"), None),
    ],
)
def test_what_does_not_fit_into_memory(error: Exception, said: str | None) -> None:
    error.add_note("10 rows x 2 features x 3 components")
    sentence = explain(error)
    assert (sentence is None) == (said is None)
    assert said is None or (said in sentence and "there is not enough memory" in sentence)


def test_more_than_the_machine_has_is_one_sentence(failing: Failing) -> None:
    words = (*FAITHFUL, "cov=full", "data.batch_size=1", "hydra.run.dir=run")
    message = failing(*words, "+model.layer.batch_shape=[9999999999999]").message
    assert "there is not enough memory for 245 rows x 2 features x 2 components" in message


def test_a_report_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]

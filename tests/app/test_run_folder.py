"""The folder of a run: one writer, no run replaced unasked, nothing made again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from support.lightning_runs import HANG, ROOT, command, same, script
from support.live_runs import Started, wait_for

from gmm_lightning.app import lock
from gmm_lightning.app.command import run as run_command
from gmm_lightning.app.folder import RunFolder
from gmm_lightning.app.lock import FolderLock
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import EpochCheckpoint, GMMModule, InitializeCallback

Failing = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("undrawn")

WORDS = ("data=faithful", "callbacks.progress=null", "fit.tol=0", "fit.max_iter=3")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def trained(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *WORDS, *words])
    run_command("train")


def test_a_finished_run_is_replaced_only_if_asked(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "two"
    trained(monkeypatch, "hydra.run.dir=two", "seed=1", "logger=csv")
    (run / "notes.txt").write_text("mine")
    before = contents(run)
    message = failing(*WORDS, "hydra.run.dir=two", "seed=2").message
    assert message == (
        f"gmm-train: {run} holds a run already: go on with it by resume={run}, choose another "
        "folder with hydra.run.dir=, or replace it with overwrite=true"
    )
    assert contents(run) == before
    # A mistake, or a fit that fails, before training starts replaces nothing.
    again = ("hydra.run.dir=two", "overwrite=true")
    failing(*WORDS, *again, "model.layer.num_components=0")
    failing(*WORDS, *again, "init=given")
    del before[str(run / "train.log")]
    assert before.items() <= contents(run).items()
    trained(monkeypatch, *again, "seed=2")
    assert "seed: 2\n" in (run / ".hydra" / "config.yaml").read_text()
    assert (run / "notes.txt").read_text() == "mine"
    # What the older run left is gone.
    assert not list(run.glob("csv/**/metrics.csv"))
    assert json.loads((run / "metrics.json").read_text())["iterations"] == 3


def test_a_sweep_is_not_repeated_into_its_folder(failing: Failing, tmp_path: Path) -> None:
    done = tmp_path / "sweep" / "0" / "checkpoints"
    done.mkdir(parents=True)
    (done / "last.ckpt").write_bytes(b"mine")
    message = failing("-m", *WORDS, "seed=1,2", "hydra.sweep.dir=sweep").message
    assert f"{tmp_path}/sweep/0 holds a run already" in message
    assert "choose another folder with hydra.sweep.dir=, or" in message
    assert (done / "last.ckpt").read_bytes() == b"mine"
    assert not (tmp_path / "sweep" / "1").exists()


@pytest.mark.parametrize("place", ["checkpoints", "tensorboard", "train.log", ".hydra/link"])
def test_nothing_is_written_or_removed_through_a_link(
    failing: Failing, tmp_path: Path, place: str
) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    (run / place).parent.mkdir(parents=True)
    (run / "metrics.json").write_text("{}")
    victim.mkdir()
    (victim / "last.ckpt").write_text("mine")
    (run / place).symlink_to(victim / "last.ckpt" if place == "train.log" else victim)
    before = contents(tmp_path)
    message = failing(*WORDS, "hydra.run.dir=run", "overwrite=true").message
    assert message.startswith(f"gmm-train: run/{place} is a link, and a run writes into its own")
    assert contents(tmp_path) == before


def test_a_link_in_a_sweep_is_not_followed(failing: Failing, tmp_path: Path) -> None:
    job, victim = tmp_path / "sweep" / "0", tmp_path / "victim"
    job.mkdir(parents=True)
    victim.mkdir()
    (job / "checkpoints").symlink_to(victim)
    message = failing("-m", *WORDS, "seed=1,2", "hydra.sweep.dir=sweep").message
    assert "sweep/0/checkpoints is a link" in message
    assert not list(victim.iterdir())
    assert not (job / lock.LOCK_NAME).exists()


def test_what_comes_before_a_run_fails_to_start_stays(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def fail(*_: Any, **__: Any) -> None:
        (run / "mine").mkdir()
        (run / "mine" / "notes.txt").write_text("mine")
        raise InvalidArgumentError("refused")

    monkeypatch.setattr(InitializeCallback, "setup", fail)
    assert failing(*WORDS, "hydra.run.dir=run").message == "gmm-train: refused"
    assert list(contents(run)) == [str(run / "mine" / "notes.txt")]


def interrupted(*_: Any) -> None:
    raise InvalidArgumentError("interrupted")


def test_no_report_is_older_than_its_checkpoint(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(monkeypatch, "hydra.run.dir=run", "logger=none")
    reports = [tmp_path / "run" / name for name in ("metrics.json", "density.json")]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "on_train_epoch_end", interrupted)
        assert failing("resume=run", "fit.max_iter=9").message == "gmm-train: interrupted"
    assert not any(path.exists() for path in reports)
    trained(monkeypatch, "resume=run", "fit.max_iter=9")
    assert all(path.exists() for path in reports)


def test_each_fit_keeps_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("fit=em_then_sgd", "fit.sgd.max_iter=1", "logger=csv", "hydra.run.dir=run")
    trained(monkeypatch, *words)
    last = [
        (tmp_path / "run" / "csv" / f"version_{fit}" / "metrics.csv").read_text() for fit in (0, 1)
    ]
    assert all("train/objective" in text for text in last)


def test_a_folder_is_trained_in_by_one(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    held = FolderLock(run)
    here = f"process {os.getpid()} on {socket.gethostname()}"
    for words in (("hydra.run.dir=run",), ("hydra.run.dir=run", "overwrite=true")):
        message = failing(*WORDS, *words).message
        assert f"another training is writing to {run}: {here}; wait for its end" in message
    held.release()
    trained(monkeypatch, "hydra.run.dir=run")
    before = contents(run)
    held = FolderLock(run)
    assert here in failing(f"resume={run}").message
    held.release()
    assert contents(run) == before
    assert not (run / lock.LOCK_NAME).exists()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from gmm_lightning.app.lock import FolderLock\n"
        "held = FolderLock(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / lock.LOCK_NAME).exists()
    FolderLock(tmp_path).release()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / lock.LOCK_NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("reason", ["no locks in this file system", "no locks at all"])
def test_without_locks_a_run_goes_on_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    reason: str,
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(lock.errno.ENOLCK, "No locks available")

    if reason == "no locks at all":
        monkeypatch.setattr(lock, "fcntl", None)
        # Such a system has none of these, either.
        for name in ("pread", "pwrite", "O_NOFOLLOW"):
            monkeypatch.delattr(os, name, raising=False)
    else:
        monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    monkeypatch.chdir(tmp_path)
    trained(monkeypatch, "hydra.run.dir=run")
    assert "run cannot be locked: " in capfd.readouterr().out
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.parametrize("moment", ["during a pass", "before the report"])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_folder_that_vanishes_ends_the_run(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, moment: str
) -> None:
    run, write = tmp_path / "run", EpochCheckpoint.write

    def written(self: EpochCheckpoint, trainer: L.Trainer) -> None:
        write(self, trainer)
        if trainer.current_epoch + 1 < (1 if moment == "during a pass" else 3):
            return
        shutil.move(run, tmp_path / "elsewhere")
        if how == "deleted":
            shutil.rmtree(tmp_path / "elsewhere")
        if how == "replaced":
            run.mkdir()

    monkeypatch.setattr(EpochCheckpoint, "write", written)
    # TensorBoard's writer notices by itself, unless there is a folder again.
    more = ["logger=none"] if how == "replaced" else []
    message = failing(*WORDS, "hydra.run.dir=run", *more).message
    assert f"the folder of this run ({run}) is gone, deleted or moved while the run" in message
    # Nothing is made again.
    assert sorted(tmp_path.glob("run/*")) == []
    assert run.exists() == (how == "replaced")
    if how == "moved":
        monkeypatch.setattr(EpochCheckpoint, "write", write)
        monkeypatch.setattr(sys, "argv", ["train.py", f"resume={tmp_path}/elsewhere"])
        run_command("train")


@pytest.mark.slow
def test_a_running_run_is_read_but_not_written(tmp_path: Path, started: Started) -> None:
    run, words = tmp_path / "run", ("data=letter", "callbacks.progress=null", "logger=none")
    process = started(run, *words, "fit.tol=0", "fit.max_iter=1000000")
    wait_for(run / "checkpoints" / "last.ckpt", process)
    second = command(*WORDS, f"hydra.run.dir={run}", cwd=tmp_path)
    assert second.returncode == 1
    assert f"another training is writing to {run}: process {process.pid} on" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert GMMModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    shutil.move(run, tmp_path / "moved")
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(f"gmm-train: the folder of this run ({run}) is gone, ")
    assert not run.exists()
    shown = script(str(ROOT / "scripts" / "show.py"), f"run={tmp_path}/moved", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_real_full_disk(tmp_path: Path, devices: int) -> None:
    """The largest file that a process may write stands for a disk, which needs no mount."""
    resource = pytest.importorskip("resource")
    words = ("data=letter", "fit.tol=0", "callbacks.progress=null", f"trainer.devices={devices}")
    whole = command(*words, "fit.max_iter=4", "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    part = command(*words, "fit.max_iter=2", "hydra.run.dir=run", cwd=tmp_path)
    assert part.returncode == 0, part.stderr
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before, soft_hard = last.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, soft_hard[1]))
    try:
        rest = command("resume=run", "fit.max_iter=4", cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
    assert rest.returncode == 1
    assert len(rest.stderr.splitlines()) == 1, rest.stderr
    assert f"a file in {tmp_path}/run would be larger than is allowed" in rest.stderr
    assert rest.stderr.endswith(f"go on with resume={tmp_path}/run\n")
    assert last.read_bytes() == before
    rest = command("resume=run", "fit.max_iter=4", cwd=tmp_path)
    assert rest.returncode == 0, rest.stderr
    final = [
        GMMModule.load_from_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt").state_dict()
        for name in ("run", "whole")
    ]
    assert same(*final)

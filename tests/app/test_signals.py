"""Signals and killed processes: what was done stays, and a resumed run ends where it would have."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
import torch
from support.lightning_runs import HANG, command, same
from support.live_runs import Started, children, state, wait_for, wait_until

from gmm_lightning.training import GMMModule

RUN = (
    "data=letter",
    "cov=full",
    "fit.tol=0",
    "logger=none",
    "callbacks.progress=null",
    "callbacks.checkpoint.every_n_passes=3",
)
# Nobody waits for the end of this one.
ENDLESS = (*RUN, "fit.max_iter=1000000")
SHORT = (*RUN, "fit.max_iter=20")


def final(folder: Path) -> dict[str, torch.Tensor]:
    return GMMModule.load_from_checkpoint(checkpoint(folder)).state_dict()


def checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def uninterrupted(folder: Path, *words: str) -> dict[str, torch.Tensor]:
    done = command(*words, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return final(folder)


def check_signal(tmp_path: Path, started: Started, signum: int, devices: int) -> None:
    words = f"trainer.devices={devices}"
    run = tmp_path / "run"
    process = started(run, *ENDLESS, words)
    wait_for(checkpoint(run), process)
    if signum == signal.SIGINT:
        # A terminal sends Ctrl-C to all processes of the run.
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 128 + signum, out + err
    assert "Traceback" not in out + err
    (passes,) = re.findall(r"interrupted after (\d+) passes", err)
    assert f"go on with resume={run}" in err
    assert not (run / "metrics.json").exists()
    assert not list(run.rglob("*.partial"))
    part = final(run)
    more = f"fit.max_iter={int(passes) + 4}"
    rest = command(f"resume={run}", more, cwd=tmp_path)
    assert rest.returncode == 0, rest.stderr
    whole = uninterrupted(tmp_path / "whole", *RUN, more, words)
    assert same(final(run), whole)
    assert not same(part, whole)
    assert (run / "metrics.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_can_go_on(
    tmp_path: Path, started: Started, signum: int, devices: int
) -> None:
    check_signal(tmp_path, started, signum, devices)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_has_its_exit_code(tmp_path: Path, started: Started, signum: int) -> None:
    run = tmp_path / "run"
    process = started(run, *ENDLESS)
    wait_for(checkpoint(run), process)
    os.killpg(process.pid, signum)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 128 + signum, out + err
    assert "Traceback" not in out + err
    assert err.splitlines()[-1].startswith("gmm-train: interrupted after ")
    assert (out + err).count("stopping after this pass") == 1
    assert all(bool(torch.isfinite(value).all()) for value in final(run).values())


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_killed_process_ends_the_other(tmp_path: Path, started: Started, victim: str) -> None:
    run = tmp_path / "it's one"
    process = started(run, *ENDLESS, "trainer.devices=2")
    wait_for(checkpoint(run), process)
    (second,) = children(process.pid)
    os.kill(process.pid if victim == "first" else second, signal.SIGKILL)
    # Both have closed the pipes, or this waits until it is taken for a hang.
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == (-signal.SIGKILL if victim == "first" else 1)
    memory = "as the system does when memory runs out"
    who = "the first process of this run was killed"
    if victim == "second":
        who = f"process 1 of this run was killed (SIGKILL, {memory})"
    how = f"go on with {shlex.quote(f'resume={run}')}"
    assert err.splitlines()[-1] == f"gmm-train: {who}, so this one stops as well; {how}"
    assert err.count("gmm-train") == 1
    assert "Traceback" not in out + err
    assert "terminate called" not in out + err
    # Gone, or dead and not yet collected by the process that inherits orphans.
    wait_until(lambda: state(second) in ("", "Z"), f"the end of {second}")
    assert all(bool(torch.isfinite(value).all()) for value in final(run).values())


@pytest.mark.slow
def test_a_process_killed_while_it_starts_is_not_waited_for(
    tmp_path: Path, started: Started
) -> None:
    run = tmp_path / "run"
    process = started(run, *ENDLESS, "trainer.devices=2")
    wait_until(lambda: len(children(process.pid)) == 1, "the second process")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 1, out + err
    assert err.startswith("gmm-train: process 1 of this run was killed (SIGKILL, ")
    # Nothing to go on with yet.
    assert err.endswith("so this one stops as well\n")


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["first", "second"])
def test_a_process_that_stops_for_half_a_minute_changes_nothing(
    tmp_path: Path, started: Started, stopped: str
) -> None:
    words = (*RUN, "fit.max_iter=40", "trainer.devices=2")
    whole = uninterrupted(tmp_path / "whole", *words)
    run = tmp_path / "run"
    process = started(run, *words)
    wait_for(checkpoint(run), process)
    (second,) = children(process.pid)
    victim = process.pid if stopped == "first" else second
    os.kill(victim, signal.SIGSTOP)
    time.sleep(30)
    assert process.poll() is None
    os.kill(victim, signal.SIGCONT)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0, out + err
    assert same(final(run), whole)


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_where_it_would_have(
    tmp_path: Path, started: Started
) -> None:
    whole = uninterrupted(tmp_path / "whole", *SHORT)
    begun = time.monotonic()
    process = started(tmp_path / "timed", *SHORT)
    wait_for(tmp_path / "timed" / "checkpoints", process)
    loading = time.monotonic() - begun
    process.communicate(timeout=HANG)
    training = time.monotonic() - begun - loading
    moments, early, late = random.Random(20250117), 0, 0
    for i in range(10):
        run = tmp_path / f"run{i}"
        process = started(run, *SHORT)
        # One is killed before it can have written anything and six after they have, on whatever
        # machine; the moments of the others are its own.
        if i == 1:
            time.sleep(moments.uniform(0, loading))
        elif i > 1:
            wait_for(checkpoint(run) if i > 3 else run / "checkpoints", process)
            time.sleep(moments.uniform(0, training))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        rest = command(f"resume={run}", cwd=tmp_path)
        if not checkpoint(run).exists():
            early += 1
            assert rest.returncode == 1
            assert rest.stderr.startswith("gmm-train: there is nothing to resume: no checkpoint at")
            assert len(rest.stderr.splitlines()) == 1
            assert same(uninterrupted(run, *SHORT), whole)
            continue
        late += 1
        assert rest.returncode == 0, rest.stderr
        assert same(final(run), whole), i
        assert (run / "metrics.json").is_file()
        assert not list(run.rglob("*.partial"))
    assert early >= 1
    assert late >= 6

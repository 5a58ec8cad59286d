"""Fits of several phases, starts and optimizers, as the command composes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from support.lightning_runs import distance, same, state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmm_lightning.app.command import run as run_command
from gmm_lightning.app.processes import Interrupted
from gmm_lightning.app.train import train
from gmm_lightning.training import GMMModule, GracefulStop

Compose = Callable[..., DictConfig]
State = dict[str, torch.Tensor]

pytestmark = pytest.mark.usefixtures("undrawn")

SILENT = ("callbacks.progress=null",)
QUIET = ("logger=none", *SILENT)


@pytest.fixture
def run(composed: Compose, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], State]]:
    """Train into a folder of that name: the metrics and the final parameters."""

    def go(name: str, *overrides: str) -> tuple[dict[str, Any], State]:
        config = composed(*overrides)
        config.paths.output_dir = str(tmp_path / name)
        metrics = train(config)
        return metrics, final(tmp_path / name)

    return go


Run = Callable[..., tuple[dict[str, Any], State]]


def final(folder: Path) -> State:
    return GMMModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt").state_dict()


def steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    # Writers of one process are numbered, and files are read in the order of their names.
    return sorted(event.step for event in events.Scalars(tag))


# -- EM, then gradient descent ------------------------------------------------------------------

BOTH = ("data=thyroid_gland", "cov=diag", "fit=em_then_sgd", "fit.tol=0", "fit.max_iter=4")


def test_the_second_phase_starts_where_em_ended(run: Run) -> None:
    alone = [word for word in BOTH if word != "fit=em_then_sgd"]
    em, end = run("em", *alone, *QUIET)
    # A step of length zero shows where it stands.
    few = ("fit.sgd.max_iter=2", "fit.then.model.optimizer.lr=0.0")
    both, start = run("both", *BOTH, *few, *QUIET)
    assert same(start, end)
    assert both["objective"] == em["objective"]
    assert (em["iterations"], both["iterations"]) == (4, 6)


def test_gradient_descent_goes_up_from_there(run: Run, tmp_path: Path) -> None:
    alone = [word for word in BOTH if word != "fit=em_then_sgd"]
    em, _ = run("em", *alone, *QUIET)
    few = ("fit.sgd.max_iter=5", "fit.sgd.tol=0")
    both, _ = run("both", *BOTH, *few, *SILENT)
    # EM was cut short, so there is something to gain; Adam's steps of 1e-3 lose less than this.
    assert both["objective"] > em["objective"] - 1e-4
    assert both["objective"] != em["objective"]
    assert {path.name for path in tmp_path.iterdir()} == {"em", "both"}
    folder = tmp_path / "both"
    for tag in ("train/objective", "val/log_likelihood", "weights/0", "condition_number/2"):
        assert steps(folder, tag) == list(range(9)), tag
    assert (folder / "metrics.json").is_file()


class StopAt(GracefulStop):
    """As if a signal came in a given pass of a given phase."""

    at = (0, 0)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (pl_module.phase, trainer.current_epoch) == self.at:
            self.signum = 15
        super().on_train_epoch_end(trainer, pl_module)


# Within the first phase and within the second; the other places come with the slow tests.
@pytest.mark.parametrize(
    "at",
    [
        (0, 2),
        (1, 2),
        *(pytest.param(at, marks=pytest.mark.slow) for at in [(0, 0), (0, 3), (1, 0)]),
    ],
)
def test_a_stop_in_either_phase_changes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, int]
) -> None:
    few = (*BOTH, "fit.sgd.max_iter=4", "fit.sgd.batch_size=50", "fit.sgd.tol=0", *SILENT)
    whole, parameters = run("whole", *few)
    with monkeypatch.context() as patch:
        patch.setattr(StopAt, "at", at)
        patch.setattr("gmm_lightning.training.GracefulStop", StopAt)
        done = at[0] * 4 + at[1] + 1
        with pytest.raises(Interrupted, match=f"interrupted after {done} passes; go on with"):
            run("part", *few)
    assert not (tmp_path / "part" / "metrics.json").exists()
    assert not same(final(tmp_path / "part"), parameters)
    rest, resumed = run("part", *few, f"resume={tmp_path}/part/checkpoints/last.ckpt")
    assert same(resumed, parameters)
    times = ("seconds", "rows_per_second")
    assert {k: v for k, v in rest.items() if k not in times} == {
        k: v for k, v in whole.items() if k not in times
    }
    for tag in ("train/objective", "weights/0"):
        assert steps(tmp_path / "part", tag) == steps(tmp_path / "whole", tag) == list(range(8))


# -- restarts -----------------------------------------------------------------------------------


def test_the_best_of_several_starts_goes_on(run: Run) -> None:
    few = ("data=thyroid_gland", "init=random_from_data", "fit.tol=0", *QUIET)
    single = [
        run(f"{seed}", *few, f"seed={seed}", "data.seed=0", "fit.max_iter=11")[0]["objective"]
        for seed in range(4)
    ]
    # Ten trial passes and one more: as long as each of the others.
    best, parameters = run("best", *few, "fit.num_restarts=8", "fit.max_iter=1")
    assert max(single) - min(single) > 0.01
    assert best["objective"] >= sorted(single)[2]
    _, again = run("again", *few, "fit.num_restarts=8", "fit.max_iter=1")
    assert same(parameters, again)


# -- optimizers ---------------------------------------------------------------------------------

SGD = ("data=faithful", "fit=sgd", *QUIET)


@pytest.fixture
def start(run: Run) -> State:
    """The parameters before the first step."""
    return run("start", *SGD, "model.optimizer.lr=0.0", "fit.max_iter=1")[1]


def learned(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("layer.")}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["none", "cosine", "step"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_with_every_scheduler(
    run: Run, start: State, optimizer: str, scheduler: str
) -> None:
    words = (f"optimizer={optimizer}", f"scheduler={scheduler}", "fit.max_iter=1")
    metrics, state = run("one", *SGD, *words)
    assert metrics["iterations"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    moved = distance(learned(start), learned(state))
    # Adam's first step is the learning rate in every entry with a gradient, whatever its size.
    assert moved == pytest.approx(0.01, rel=1e-4) if optimizer != "sgd" else 0 < moved < 0.01


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    # The rate of each of three passes, relative to the first.
    [
        (("scheduler=step", "model.scheduler.step_size=1", "model.scheduler.gamma=0.5"), (1, 2, 4)),
        (("scheduler=cosine", "model.scheduler.T_max=3"), (1, 1 / 0.75, 4)),
        (("scheduler=none",), (1, 1, 1)),
    ],
)
def test_a_scheduler_counts_passes(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    scheduler: tuple[str, ...],
    rates: tuple[float, ...],
) -> None:
    states: list[State] = []

    class Recorder(GracefulStop):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            states.append(learned(state(pl_module)))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            states.append(learned(state(pl_module)))

    monkeypatch.setattr("gmm_lightning.training.GracefulStop", Recorder)
    # Adam without memory moves every entry by the rate itself.
    plain = ("+model.optimizer.betas=[0.0,0.0]", "model.optimizer.lr=1e-5", "data.batch_size=512")
    run("three", *SGD, *plain, *scheduler, "fit.tol=0", "fit.max_iter=3")
    moves = [distance(a, b) for a, b in pairwise(states)]
    assert moves[0] == pytest.approx(1e-5, rel=1e-2)
    assert [moves[0] / move for move in moves] == pytest.approx(rates, rel=1e-2)


def test_clipping_bounds_the_step(run: Run, start: State) -> None:
    words = ("optimizer=sgd", "model.optimizer.momentum=0.0", "model.optimizer.lr=1.0")
    _, state = run("clipped", *SGD, *words, "fit.clip=1e-4", "fit.max_iter=1")
    before, after = learned(start), learned(state)
    norm = torch.cat([(after[n] - before[n]).reshape(-1) for n in before]).norm()
    # The gradient at the start is longer, so the step is as long as allowed; torch adds 1e-6 to
    # the norm that it divides by.
    assert float(norm) == pytest.approx(1e-4, rel=1e-3)


# -- what is said -------------------------------------------------------------------------------


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Everything that `gmm-train` prints, and that its log file holds."""
    monkeypatch.chdir(tmp_path)

    def go(*words: str) -> str:
        monkeypatch.setattr(
            sys, "argv", ["train.py", "data=faithful", "fit.max_iter=2", "logger=none", *words]
        )
        capfd.readouterr()
        run_command("train")
        out, err = capfd.readouterr()
        return out + err

    return go


def log_file(folder: Path) -> str:
    (path,) = folder.glob("outputs/*/*/*.log")
    return path.read_text()


def test_quiet_says_nothing(said: Callable[..., str], tmp_path: Path) -> None:
    assert said("quiet=true") == ""
    assert log_file(tmp_path) == ""


def test_a_run_says_each_thing_once(said: Callable[..., str], tmp_path: Path) -> None:
    text = said()
    logged = [line for line in text.splitlines() if line.startswith("[")]
    assert logged == log_file(tmp_path).splitlines()
    assert len(logged) == len(set(logged)) == 3
    assert "faithful: 245 rows to train, 27 to validate, 2 features, 2 components" in logged[0]
    assert re.search(r"log-likelihood -4\.\d+, .* 2 passes .* rows per second", logged[1])
    assert "checkpoint, metrics and picture: " in logged[2]
    # The bar, with the log-likelihood.
    assert re.search(r"passes: 100%.*2/2 .*log_likelihood=-4\.", text)
    for noise in ("GPU", "warn", "Warn", "💡"):
        assert noise not in text


def test_verbose_says_more(said: Callable[..., str]) -> None:
    text = said("verbose=true", "callbacks.progress=null")
    assert "GPU available" in text
    # Without the bar there is no other bar.
    assert "Epoch" not in text
    assert "it/s" not in text

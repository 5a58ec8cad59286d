"""Several runs by one command: a folder each, a table of all, each as if it were alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from support.lightning_runs import command, distance, same

from gmm_lightning.app.train import train
from gmm_lightning.training import GMMModule

Compose = Callable[..., DictConfig]

WORDS = ("data=penguins", "priors=niw", "fit.max_iter=3", "fit.tol=0", "callbacks.progress=null")


def swept(folder: Path, *words: str) -> tuple[Path, list[dict[str, str]], str]:
    """The folder of a sweep, the rows of its table, and what was printed."""
    done = command("-m", *WORDS, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    (home,) = folder.glob("outputs/multirun/*/*")
    assert [path.name for path in folder.iterdir()] == ["outputs"]
    with (home / "sweep.csv").open() as file:
        return home, list(csv.DictReader(file)), done.stdout


def check(home: Path, rows: list[dict[str, str]], printed: str, jobs: list[dict[str, str]]) -> None:
    """Right folders, and a table that agrees with them, best BIC first."""
    folders = {path.name for path in home.iterdir() if path.is_dir()}
    assert folders == {str(i) for i in range(len(jobs))}
    assert sorted(row["run"] for row in rows) == sorted(folders)
    scores = [float(row["bic"]) for row in rows]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(jobs)
    for row in rows:
        run = home / row["run"]
        assert jobs[int(row["run"])].items() <= row.items()
        metrics = json.loads((run / "metrics.json").read_text())
        for key in ("bic", "objective", "log_likelihood", "val_log_likelihood", "seconds"):
            assert float(row[key]) == metrics[key]
        assert (row["iterations"], row["converged"]) == ("3", str(metrics["converged"]))
        for name in ("checkpoints/last.ckpt", "mixture.png", "density.json", ".hydra/config.yaml"):
            assert (run / name).is_file(), name
        assert len(list((run / "tensorboard").glob("events*"))) >= 1
        assert (run / "train.log").read_text().count("checkpoint, metrics and picture") == 1
        assert f"{metrics['bic']:.6g}" in printed
    assert printed.splitlines()[-1] == f"table: {home.relative_to(home.parents[3])}/sweep.csv"


def alone(
    composed: Compose, folder: Path, job: dict[str, str], more: dict[str, str]
) -> dict[str, Any]:
    """The parameters of the same job by itself, in one process."""
    names = {"num_components": "model.layer.num_components", "cov": "cov"} | more
    config = composed(*WORDS, *(f"{names[key]}={value}" for key, value in job.items()))
    config.paths.output_dir = str(folder)
    train(config)
    return parameters(folder)


def parameters(folder: Path) -> dict[str, Any]:
    return GMMModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt").state_dict()


@pytest.mark.slow
def test_two_jobs(tmp_path: Path, composed: Compose) -> None:
    (tmp_path / "sweep").mkdir()
    home, rows, printed = swept(tmp_path / "sweep", "model.layer.num_components=2,4")
    jobs = [{"num_components": "2"}, {"num_components": "4"}]
    check(home, rows, printed, jobs)
    for i, job in enumerate(jobs):
        assert same(parameters(home / str(i)), alone(composed, tmp_path / f"alone{i}", job, {}))


@pytest.mark.slow
def test_two_by_two_with_two_processes(tmp_path: Path, composed: Compose) -> None:
    (tmp_path / "sweep").mkdir()
    words = ("model.layer.num_components=2,3", "cov=full,diag", "trainer.devices=2")
    home, rows, printed = swept(tmp_path / "sweep", *words)
    jobs = [{"num_components": k, "cov": cov} for k in "23" for cov in ("full", "diag")]
    check(home, rows, printed, jobs)
    for i, job in enumerate(jobs):
        single = alone(composed, tmp_path / f"alone{i}", job, {})
        # Sums over two shards round in another order; three passes carry that on.
        assert distance(parameters(home / str(i)), single) < 1e-9
        log = (home / str(i) / "train.log").read_text()
        assert "EM on 2 process(es)" in log

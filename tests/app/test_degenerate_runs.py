"""Fits with degenerate components are said to be such, and are chosen only when asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from support.csv_run import write_csv

from gmm_lightning.app.evaluate import evaluate
from gmm_lightning.app.show import show
from gmm_lightning.app.sweep import SweepSummary
from gmm_lightning.app.train import train
from gmm_lightning.criteria import rank_fits
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import GMMModule

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def spike(tmp_path: Path) -> Path:
    """A blob, and forty rows at one place, where a density has no bound; a constant column."""
    x = np.random.default_rng(0).normal(size=(300, 2))
    x = np.concatenate([np.full((40, 2), 5.0), x])
    return write_csv(tmp_path / "spike.csv", {"a": x[:, 0], "b": x[:, 1], "c": [7.3] * len(x)})


def test_a_run_says_so(
    composed: Callable[..., DictConfig],
    asked: Callable[..., DictConfig],
    tmp_path: Path,
    spike: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ("data=file", f"data.path={spike}", "data.val_fraction=0", "logger=none")
    words += ("model.layer.num_components=2", "callbacks.progress=null")
    with caplog.at_level(logging.WARNING):
        metrics = train(composed(*words))
    (component,) = metrics["degenerate_components"]
    said = f"component {component} is degenerate"
    assert said in caplog.text
    constant = "those of the other columns: c; 2 of 3 features count"
    assert constant in caplog.text
    assert (metrics["num_features"], metrics["num_constant_features"]) == (3, 1)
    assert json.loads((tmp_path / "metrics.json").read_text())["degenerate_components"]
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(composed(*words), tmp_path / ".hydra" / "config.yaml")
    show(asked("show", f"run={tmp_path}"))
    shown = capsys.readouterr().out
    assert said in shown
    assert constant in shown
    assert "7.3 ± 0" in shown
    evaluate(asked("evaluate", f"run={tmp_path}"))
    printed = capsys.readouterr().out
    assert said in printed
    assert "2 of 3 count" in printed
    module = GMMModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert module.sample(5)[:, 2].tolist() == pytest.approx([7.3] * 5, rel=1e-6)
    # A prior, as the sentence says, gives it a covariance.
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        regular = train(composed(*words, "priors=niw"))
    assert regular["degenerate_components"] == []
    assert "degenerate" not in caplog.text
    assert "floor" not in caplog.text
    # A constant column adds nothing, in standard units too.
    without = train(composed(*words, "priors=niw", "data.columns=[a,b]"))
    assert regular["bic"] == pytest.approx(without["bic"], rel=1e-6)


def test_components_without_rows_are_said_at_the_start(
    composed: Callable[..., DictConfig], tmp_path: Path
) -> None:
    x = np.repeat([[0.0, 0.0], [1.0, 1.0], [2.0, 5.0]], 20, 0)
    path = write_csv(tmp_path / "few.csv", {"a": x[:, 0], "b": x[:, 1]})
    words = ("data=file", f"data.path={path}", "data.val_fraction=0", "logger=none")
    words += ("callbacks.progress=null", "priors=niw")
    said = train(composed(*words, "model.layer.num_components=5"))["repaired"]
    assert sum("it lost its rows and keeps weight 0" in event for event in said) == 2
    assert all("fewer distinct rows than components" in event for event in said)
    # What it says, followed.
    assert train(composed(*words, "model.layer.num_components=3"))["repaired"] == []


def job(folder: Path, number: int, bic: float, degenerate: list[int]) -> None:
    """What a job of a sweep leaves."""
    (folder / str(number) / ".hydra").mkdir(parents=True)
    numbers = {"bic": bic, "log_likelihood": -1.0, "degenerate_components": degenerate}
    (folder / str(number) / "metrics.json").write_text(json.dumps(numbers))
    overrides = OmegaConf.create([f"model.layer.num_components={number}"])
    OmegaConf.save(overrides, folder / str(number) / ".hydra" / "overrides.yaml")


@pytest.mark.parametrize(("include", "order"), [(False, "2013"), (True, "1203")])
def test_a_sweep_ranks_them_last_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], include: bool, order: str
) -> None:
    for number, (bic, found) in enumerate([(7.0, []), (-90.0, [2, 5]), (5.0, []), (8.0, [0])]):
        job(tmp_path, number, bic, found)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    SweepSummary(include_degenerate=include).on_multirun_end(config)
    header, *rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == list(order)
    cells: dict[str, Any] = dict(
        zip(header.split(","), rows[order.index("1")].split(","), strict=True)
    )
    assert cells["degenerate_components"] == "2 5"
    said = capsys.readouterr().out
    assert ("2 of 4 runs have degenerate components and come last" in said) is not include


def test_numbers_rank_before_none_and_regular_ones_before_degenerate_ones() -> None:
    scores = [float("nan"), 3.0, 1.0, 2.0]
    assert rank_fits(scores, [False, False, True, False]) == [3, 1, 0, 2]
    assert rank_fits(scores, [[], [], [(0,)], []], include_degenerate=True) == [2, 3, 1, 0]
    with pytest.raises(
        InvalidArgumentError, match="one entry of degenerate per score, got 1 for 2"
    ):
        rank_fits([1.0, 2.0], [[]])

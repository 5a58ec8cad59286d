"""Empty cells and columns of errors from the command line: fits, answers, completed rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.csv_run import Plain, Rows, write_csv

from gmm_lightning.distributions import deconvolve, impute
from gmm_lightning.training import GMMModule

pytestmark = pytest.mark.usefixtures("undrawn")
Typed = Callable[..., str]
# The layer computes in float32.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def cells(values: Rows) -> list[str]:
    return ["" if np.isnan(value) else repr(float(value)) for value in values]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """`holes.csv`: 240 rows of two clusters, a fifth of their cells empty, the last row wholly."""
    source = np.random.default_rng(4)
    x = source.normal(size=(240, 2)) * [1.0, 30.0]
    x[:100] += [6.0, 200.0]
    x[source.random(x.shape) < 0.2] = np.nan
    x[-1] = np.nan
    # Values that float32 holds are read and written without a change.
    x = x.astype(np.float32).astype(float)
    deviation = np.where(np.isnan(x[:, 0]), np.nan, 0.5)
    columns = {"a": cells(x[:, 0]), "b": cells(x[:, 1]), "da": cells(deviation)}
    write_csv(tmp_path / "holes.csv", columns)
    return x


@pytest.fixture
def typed(rows: Rows, saying: Typed) -> Typed:
    """Run a command in that folder; returns what it says."""
    return saying


TRAIN = ("data=file", "data.path=holes.csv", "data.columns=[a,b]", "model.layer.num_components=2")
TRAIN += ("data.val_fraction=0", "callbacks.progress=null", "logger=none")


def read(path: str) -> Any:
    return np.genfromtxt(path, delimiter=",", names=True)


def test_a_run_with_empty_cells(typed: Typed, rows: Rows, tmp_path: Path) -> None:
    missing, incomplete = int(np.isnan(rows).sum()), int(np.isnan(rows).any(1).sum())
    said = typed("train", *TRAIN, "data.missing=em")
    assert f"240 rows to train ({missing} entries are missing, in {incomplete} rows)" in said
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_missing_entries"] == missing
    assert metrics["num_incomplete_rows"] == incomplete
    said = typed("evaluate")
    assert f"{missing} of 480 entries, in {incomplete} rows" in said
    assert "share of complete rows inside" in said
    # Answers are those of the model for the cells that are there.
    said = typed("predict", "input=holes.csv", "output=out.csv")
    assert f"{incomplete} with empty cells, which are not judged" in said
    answers, plain = read("out.csv"), Plain.read(tmp_path / "run")
    module = GMMModule.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    expected = module.distribution().log_prob(torch.from_numpy(rows), missing="marginalize")
    np.testing.assert_allclose(answers["log_density"], expected.detach(), **CLOSE)
    whole = ~np.isnan(rows).any(1)
    np.testing.assert_allclose(answers["log_density"][whole], plain.log_prob(rows[whole]), **CLOSE)
    assert not answers["outlier"][~whole].any()
    # Nothing is known of the last row.
    assert answers["log_density"][-1] == pytest.approx(0.0, abs=1e-6)
    assert answers["responsibility_0"][-1] == pytest.approx(plain.weights[0], rel=1e-5)
    assert float(answers["log_density"].mean()) == pytest.approx(metrics["log_likelihood"], 1e-5)
    typed("predict", "input=holes.csv", "output=kept.csv", "missing=drop")
    assert len(read("kept.csv")) == whole.sum()


def test_completed_rows(typed: Typed, rows: Rows, refused: Any, tmp_path: Path) -> None:
    typed("train", *TRAIN, "fit.missing=em")
    module = GMMModule.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    whole, x = ~np.isnan(rows), torch.from_numpy(rows)
    typed("sample", "input=holes.csv", "output=mean.csv", "impute=mean", "batch_rows=50")
    table = read("mean.csv")
    found = np.stack([table["a"], table["b"]], 1)
    np.testing.assert_array_equal(table["row"], np.arange(240))
    np.testing.assert_array_equal(found[whole], rows[whole])
    np.testing.assert_allclose(found, impute(module.distribution(), x).detach(), **CLOSE)
    typed("sample", "input=holes.csv", "output=draws.csv", "n=40")
    table = read("draws.csv")
    np.testing.assert_array_equal(table["row"], np.arange(240).repeat(40))
    drawn = np.stack([table["a"], table["b"]], 1).reshape(240, 40, 2)
    np.testing.assert_array_equal(drawn[:, 0][whole], rows[whole])
    # The mean of 40 draws, within five standard errors of 240 rows together.
    gap = (drawn.mean(1) - found) / np.nanstd(rows, 0)
    assert abs(gap.mean(0)).max() < 5 / np.sqrt(240 * 40)
    typed("sample", "input=holes.csv", "output=again.csv", "n=40")
    assert Path("again.csv").read_text() == Path("draws.csv").read_text()
    for words, said in (
        (("condition={a: 1}",), "condition does not apply"),
        (("within=ball", "within.center=[0,0]", "within.radius=1"), "within does not apply"),
        (("impute=mean", "n=3"), "would all be the same"),
        (("impute=median",), "unknown impute 'median'"),
        (("missing=refuse",), "missing values, by column of"),
        (("errors=[da]",), "for each of the 2 features"),
    ):
        assert said in refused("sample", "run=run", "input=holes.csv", "output=new.csv", *words)
    assert "picture does not apply" in refused(
        "sample", "run=run", "input=holes.csv", "output=new.csv", "picture=a.png"
    )
    assert "is the file that is read" in refused(
        "sample", "run=run", "input=holes.csv", "output=holes.csv", "overwrite=true"
    )
    assert not Path("new.csv").exists()


def test_a_run_with_errors(typed: Typed, rows: Rows, tmp_path: Path) -> None:
    errors = "errors=[da,null]"
    typed("train", *TRAIN, "data.missing=em", f"data.{errors}")
    said = typed("evaluate")
    assert "coverage" not in said
    module = GMMModule.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    mixture, x = module.distribution(), torch.from_numpy(rows)
    variances = torch.tensor([0.25, 0.0]).double().expand(240, 2)
    typed("predict", "input=holes.csv", "output=out.csv", errors)
    expected = mixture.log_prob(x, missing="marginalize", error_covariance=variances)
    np.testing.assert_allclose(read("out.csv")["log_density"], expected.detach(), **CLOSE)
    typed("sample", "input=holes.csv", "output=true.csv", "impute=mean", errors)
    table = read("true.csv")
    found = np.stack([table["a"], table["b"]], 1)
    np.testing.assert_allclose(found, deconvolve(mixture, x, variances).detach(), **CLOSE)
    exact = ~np.isnan(rows[:, 1])
    np.testing.assert_array_equal(found[exact, 1], rows[exact, 1])


def test_rows_with_empty_cells_are_refused_or_dropped(
    typed: Typed, rows: Rows, failing: Any, refused: Any, tmp_path: Path
) -> None:
    assert "drop these rows by missing=drop" in failing(*TRAIN).message
    assert "data.missing=drop leaves rows out" in failing(*TRAIN, "fit.missing=drop").message
    assert "known are: refuse, drop, em" in failing(*TRAIN, "data.missing=mean").message
    incomplete = int(np.isnan(rows).any(1).sum())
    said = typed("train", *TRAIN, "data.missing=drop")
    assert f"{incomplete} of 240 rows have missing entries and were left out" in said
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_dropped_rows"] == incomplete
    assert metrics["num_rows"] == 240 - incomplete
    # The run knows nothing of missing cells: they are refused unless it is asked for.
    given = ("run=run", "data=file", "data.path=holes.csv", "data.columns=[b,a]")
    assert "missing values" in refused("evaluate", *given)
    assert "missing values" in refused("predict", "run=run", "input=holes.csv", "output=o.csv")
    said = typed("evaluate", *given[1:], "data.missing=em")
    assert f"{np.isnan(rows).sum()} of 480 entries, in {incomplete} rows" in said
    assert "missing" not in typed("evaluate", *given[1:], "data.missing=drop").split("nats")[1]


def test_streams_and_a_second_start(typed: Typed, tmp_path: Path) -> None:
    words = ("data=stream", *TRAIN[1:4], "data.missing=em", "callbacks.progress=null")
    words += ("logger=none", "fit.max_iter=3", "data.errors={a: da}")
    typed("train", *words)
    settings = OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml")
    assert settings.data.missing == "em"
    typed("train", "resume=run", "fit.max_iter=6")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "num_missing_entries" in metrics
    assert metrics["iterations"] == 6 or metrics["converged"]


def test_a_run_without_a_complete_row(typed: Typed, tmp_path: Path) -> None:
    source = np.random.default_rng(1)
    x = source.normal(size=(120, 2)) + 3.0
    x[np.arange(120), np.arange(120) % 2] = np.nan
    write_csv(tmp_path / "none.csv", {"a": cells(x[:, 0]), "b": cells(x[:, 1])})
    train = ("data=file", "data.path=none.csv", "data.missing=em", *TRAIN[4:])
    typed("train", *train, "model.layer.num_components=1", "cov=diag")
    assert "120 with empty cells" in typed("predict", "input=none.csv", "output=out.csv")
    assert "coverage" not in typed("evaluate")

"""`gmm-evaluate`: its numbers against numpy and scipy, on any part and on other data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from support.csv_run import Plain, Rows, named, things, write_csv

from gmm_lightning.app.evaluate import evaluate
from gmm_lightning.training import ArrayDataModule

Asked = Callable[..., DictConfig]
Failing = Callable[..., Any]

FREE = 2 + 3 * 3 + 3 * 6
# Sums of a few hundred densities, each from a factorisation in other units.
CLOSE: dict[str, Any] = {"rel": 1e-10}


def parts(run: Path) -> dict[str, tuple[Rows, Any]]:
    """The rows that the run saw, split as it split them."""
    data = ArrayDataModule.file(
        run.parents[1] / "things.csv", label="kind", val_fraction=0.1, test_fraction=0.2
    )
    assert data.val.x is not None
    assert data.test.x is not None
    return {
        "train": (data.train.x.numpy(), data.train.labels),
        "val": (data.val.x.numpy(), data.val.labels),
        "test": (data.test.x.numpy(), data.test.labels),
    }


def check(plain: Plain, x: Rows, labels: Any, numbers: dict[str, Any]) -> None:
    values, n = plain.log_prob(x), len(x)
    posterior = plain.responsibilities(x)
    entropy = -float((posterior * np.log(posterior.clip(1e-300))).sum())
    bic = -2 * values.sum() + FREE * math.log(n)
    assert numbers["num_rows"] == n
    assert numbers["num_free_parameters"] == FREE
    assert numbers["log_likelihood"] == pytest.approx(values.mean(), **CLOSE)
    assert numbers["standard_error"] == pytest.approx(values.std() / math.sqrt(n), **CLOSE)
    assert numbers["bic"] == pytest.approx(bic, **CLOSE)
    assert numbers["aic"] == pytest.approx(-2 * values.sum() + 2 * FREE, **CLOSE)
    assert numbers["icl"] == pytest.approx(bic + 2 * entropy, **CLOSE)
    predicted = posterior.argmax(-1)
    rand, information = (
        score(labels, predicted) for score in (adjusted_rand_score, normalized_mutual_info_score)
    )
    assert numbers["adjusted_rand_score"] == pytest.approx(rand, **CLOSE)
    assert numbers["normalized_mutual_info_score"] == pytest.approx(information, **CLOSE)
    drawn = plain.log_prob(plain.sample(100_000, np.random.default_rng(1)))
    for mass, share in numbers["coverage"].items():
        p = float(mass)
        # The edges are quantiles of 100,000 draws here and there: 5 sigma of their difference,
        # and the rows that may lie in between.
        slack = 5 * math.sqrt(2 * p * (1 - p) / 100_000)
        low, high = (
            float((values >= np.quantile(drawn, 1 - q)).mean())
            for q in (max(p - slack, 0.0), min(p + slack, 1.0))
        )
        assert low <= share <= high


def test_every_part_has_the_right_numbers(
    trained: Path, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The data were named by a relative path, from another folder.
    monkeypatch.chdir(tmp_path)
    report = evaluate(asked("evaluate", f"run={trained}"))
    assert list(report) == ["train", "val", "test"]
    assert [report[name]["num_rows"] for name in report] == [210, 30, 60]
    for name, (x, labels) in parts(trained).items():
        check(Plain.read(trained), x, labels, report[name])
    stored = json.loads((trained / "metrics.json").read_text())
    for key in ("log_likelihood", "standard_error", "objective", "bic", "adjusted_rand_score"):
        assert report["train"][key] == stored[key]
    for name in ("val", "test"):
        assert report[name]["log_likelihood"] == pytest.approx(
            stored[f"{name}_log_likelihood"], rel=1e-12
        )
    # The kinds overlap, and the fit found them.
    assert 0.5 < report["train"]["adjusted_rand_score"] < 1
    assert list(tmp_path.iterdir()) == []


def test_other_data_are_matched_by_name(trained: Path, asked: Asked, tmp_path: Path) -> None:
    x, kind = things(500, seed=5)
    columns = {"kind": kind, "extra": [1.5] * 500, **named(x, "temp", "mass", "width")}
    other = write_csv(tmp_path / "other.csv", columns)
    given = (f"run={trained}", "data=file", f"data.path={other}")
    report = evaluate(asked("evaluate", *given, "data.label=kind"))
    assert list(report) == ["data"]
    check(Plain.read(trained), x, kind, report["data"])
    # A calibrated model of the same distribution covers as it predicts: 5 sigma of 500 rows, and
    # 0.06 for what 210 rows left to learn.
    for mass, share in report["data"]["coverage"].items():
        p = float(mass)
        assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 500) + 0.06)
    # Without labels there is nothing to agree with; `extra` and `kind` are not asked for.
    unlabelled = evaluate(asked("evaluate", *given))["data"]
    assert "adjusted_rand_score" not in unlabelled
    assert unlabelled["bic"] == report["data"]["bic"]


def test_one_row_is_judged(trained: Path, asked: Asked, tmp_path: Path) -> None:
    x, _ = things(1, seed=5)
    other = write_csv(tmp_path / "one.csv", named(x))
    numbers = evaluate(asked("evaluate", f"run={trained}", "data=file", f"data.path={other}"))
    assert numbers["data"]["standard_error"] == 0
    expected = float(Plain.read(trained).log_prob(x)[0])
    assert numbers["data"]["log_likelihood"] == pytest.approx(expected, **CLOSE)


def test_the_seed_draws_the_regions(trained: Path, asked: Asked) -> None:
    first, again = (evaluate(asked("evaluate", f"run={trained}")) for _ in range(2))
    assert first == again


def test_what_is_printed(trained: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(asked("evaluate", f"run={trained}"))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "train: 210 rows",
        "val: 30 rows",
        "test: 60 rows",
    ]
    train = report["train"]
    assert lines[1] == (
        f"  log-likelihood   {train['log_likelihood']:.6f} ± {train['standard_error']:.6f} "
        "nats per row (± standard error)"
    )
    assert f"{train['bic']:.2f}, {train['aic']:.2f}, {train['icl']:.2f}" in lines[2]
    assert f"50%: {train['coverage']['0.5']:.1%}" in lines[3]
    assert f"{train['adjusted_rand_score']:.4f}" in lines[4]


def test_an_output_is_never_overwritten_unasked(
    trained: Path, asked: Asked, failing: Failing, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "scores.json"
    report = evaluate(asked("evaluate", f"run={trained}", f"output={output}"))
    assert json.loads(output.read_text()) == report
    output.write_text("mine")
    failure = failing(f"run={trained}", f"output={output}", name="evaluate")
    assert f"{output} exists" in failure.message
    assert "overwrite=true" in failure.message
    # A word that is not a truth value is not taken for one.
    failure = failing(f"run={trained}", f"output={output}", "overwrite=nope", name="evaluate")
    assert "overwrite must be true or false, got 'nope'" in failure.message
    assert output.read_text() == "mine"
    evaluate(asked("evaluate", f"run={trained}", f"output={output}", "overwrite=true"))
    assert json.loads(output.read_text()) == report
    assert [path.name for path in output.parent.iterdir()] == ["scores.json"]


def test_other_columns_are_named(failing: Failing, trained: Path, tmp_path: Path) -> None:
    x, _ = things(5, seed=5)
    write_csv(tmp_path / "few.csv", {"mass": x[:, 0].tolist(), "length": x[:, 1].tolist()})
    given = ("data=file", "data.path=few.csv")
    failure = failing(f"run={trained}", *given, name="evaluate")
    assert "few lacks the column(s) width, temp of the run" in failure.message
    assert "mass, length" in failure.message
    failure = failing(f"run={trained}", "data=penguins", name="evaluate")
    assert "penguins lacks the column(s) mass, width, temp of the run" in failure.message


def test_data_that_are_gone(failing: Failing, copied: Path) -> None:
    # A checkpoint alone knows its model, not its data.
    alone = copied / "checkpoints" / "last.ckpt"
    (copied / ".hydra" / "hydra.yaml").rename(copied / "hydra.yaml")
    failure = failing(f"run={alone}", name="evaluate")
    assert "there is no file things.csv" in failure.message
    (copied / ".hydra" / "config.yaml").unlink()
    failure = failing(f"run={alone}", name="evaluate")
    assert "has no .hydra/config.yaml that names its data" in failure.message


def test_a_seed_out_of_range(refused: Callable[..., str], trained: Path) -> None:
    said = refused("evaluate", f"run={trained}", "seed=-1")
    assert said == "seed must be an integer >= 0, got -1"

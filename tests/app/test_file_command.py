"""`data=file`: from a file of one's own to a fitted mixture, or to one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from gmm_lightning.app.train import train
from gmm_lightning.training import GMMModule

Compose = Callable[..., DictConfig]

SHORT = ("data=file", "debug=one_pass", "logger=none", "callbacks.progress=null")


@pytest.fixture
def iris(tmp_path: Path) -> Path:
    from sklearn.datasets import load_iris

    data: Any = load_iris()
    lines = [",".join([*data.feature_names, "species"])]
    for row, code in zip(data.data.tolist(), data.target, strict=True):
        lines.append(",".join([*map(str, row), data.target_names[code]]))
    path = tmp_path / "my iris.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_csv_with_names_and_labels(composed: Compose, tmp_path: Path, iris: Path) -> None:
    metrics = train(composed(*SHORT, f"data.path='{iris}'", "data.label=species"))
    assert metrics["num_rows"] == 135
    assert metrics["num_features"] == 4
    assert metrics["num_components"] == 3
    assert metrics["adjusted_rand_score"] > 0.5
    assert math.isfinite(metrics["val_log_likelihood"])
    module = GMMModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert module.layer.num_features == 4


def test_a_semicolon_file_without_names(composed: Compose, tmp_path: Path) -> None:
    from sklearn.datasets import load_wine

    data: Any = load_wine()
    path = tmp_path / "wine.txt"
    np.savetxt(path, np.column_stack([data.target, data.data]), delimiter=";")
    metrics = train(composed(*SHORT, f"data.path={path}", "data.label=0", "cov=diag"))
    assert (metrics["num_rows"], metrics["num_features"]) == (160, 13)
    assert metrics["adjusted_rand_score"] > 0.5


def test_a_tab_file_with_chosen_columns(composed: Compose, tmp_path: Path) -> None:
    from sklearn.datasets import load_diabetes

    data: Any = load_diabetes(scaled=False)
    path = tmp_path / "diabetes.tsv"
    header = "\t".join(data.feature_names)
    np.savetxt(path, data.data, delimiter="\t", header=header, comments="")
    options = ("data.columns=[age,bmi,3]", "data.test_fraction=0.5", "data.val_fraction=0")
    metrics = train(composed(*SHORT, f"data.path={path}", *options))
    assert (metrics["num_rows"], metrics["num_features"]) == (221, 3)
    assert "val_log_likelihood" not in metrics


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (
            None,
            (),
            "expected the path of a file to read; on the command line: data=file data.path=my.csv",
        ),
        (None, ("data.path=my.csv",), "there is no file my.csv"),
        ("", ("data.path=my.csv",), "my.csv is empty"),
        (
            "a,b\n1,2\n3,x\n4,5\n",
            ("data.path=my.csv",),
            "my.csv: line 3, column b: expected a number, got 'x'",
        ),
        (
            "a,b\n1,2\n3,4\n4,5\n",
            ("data.path=my.csv", "data.label=c"),
            "my.csv: there is no label column 'c'; the columns are: a, b",
        ),
        (
            "a,b\n1,2\n",
            ("data.path=my.csv",),
            "there is 1 row, so none can be set aside (val_fraction=0.1); a mixture needs at least",
        ),
        (
            "a,b\n1,2\n",
            ("data.path=my.csv", "data.val_fraction=0"),
            "there is 1 row to fit, and a mixture of num_components=3 needs at least 3: take",
        ),
        (
            "a,b\n1,2\n",
            ("data.path=my.csv", "data.seperator=tab"),
            "unknown key 'seperator' in data; known are: path, columns, label, unlabeled_weight, "
            "weight, errors",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    failing: Callable[..., Any],
    tmp_path: Path,
    content: str | None,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    if content is not None:
        (tmp_path / "my.csv").write_text(content)
    failure = failing("data=file", *arguments)
    assert failure.code == 1
    assert said in failure.message
    # Nothing of a run is left in the folder of outputs.
    assert [p for p in tmp_path.rglob("*") if p.name not in ("outputs", "my.csv")] == []


@pytest.mark.parametrize("content", ["a,b\n" + "5,7\n" * 40, "v\n" + "1\n2\n" * 20])
def test_constants_and_one_column_are_fitted(
    composed: Compose, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "my.csv"
    path.write_text(content)
    options = ("model.layer.num_components=2", "data.val_fraction=0", "init=random_from_data")
    metrics = train(composed(*SHORT, f"data.path={path}", *options))
    assert math.isfinite(metrics["log_likelihood"])

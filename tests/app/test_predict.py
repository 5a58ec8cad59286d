"""`gmm-predict`: answers for a file, in its units, whatever the blocks and the order."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from support.csv_run import Plain, Rows, named, things, write_csv

from gmm_lightning.app.predict import predict
from gmm_lightning.training import GMMModule

Asked = Callable[..., DictConfig]
Failing = Callable[..., Any]

HEAD = ["component", "log_density", "outlier", *(f"responsibility_{k}" for k in range(3))]
# Densities from factorisations in other units; some rows lie far out.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture
def new(tmp_path: Path) -> tuple[Path, Rows]:
    """257 rows, the last of them far away, columns in another order and one too many."""
    x, kind = things(257, seed=9)
    x[-1] = [9e4, 0.5, 300.0]
    columns = {"kind": kind, **named(x, "temp", "width", "mass")}
    return write_csv(tmp_path / "new.csv", columns), x


def answers(path: Path) -> tuple[list[str], Rows]:
    with path.open() as file:
        head, *rows = list(csv.reader(file))
    return head, np.array(rows, dtype=np.float64).reshape(len(rows), len(head))


def test_answers_are_those_of_the_model(
    trained: Path, asked: Asked, tmp_path: Path, new: tuple[Path, Rows]
) -> None:
    path, x = new
    output = tmp_path / "deep" / "labels.csv"
    predict(asked("predict", f"run={trained}", f"input={path}", f"output={output}"))
    head, table = answers(output)
    assert head == HEAD
    plain = Plain.read(trained)
    np.testing.assert_array_equal(table[:, 0], plain.log_joint(x).argmax(-1))
    np.testing.assert_allclose(table[:, 1], plain.log_prob(x), **CLOSE)
    np.testing.assert_allclose(table[:, 3:], plain.responsibilities(x), **CLOSE)
    train = training_density(trained)
    np.testing.assert_array_equal(table[:, 2], plain.log_prob(x) < np.quantile(train, 0.01))
    assert table[-1, 2] == 1
    assert 1 <= table[:, 2].sum() < 30
    # The command is the module, in its own words.
    import torch

    module = GMMModule.load_from_checkpoint(trained / "checkpoints" / "last.ckpt")
    rows = torch.from_numpy(x)
    with torch.no_grad():
        np.testing.assert_array_equal(table[:, 0], module.predict(rows).numpy())
        np.testing.assert_allclose(table[:, 1], module.log_prob(rows).numpy(), rtol=1e-13)


def training_density(run: Path) -> Rows:
    from gmm_lightning.training import ArrayDataModule

    data = ArrayDataModule.file(
        run.parents[1] / "things.csv", label="kind", val_fraction=0.1, test_fraction=0.2
    )
    return Plain.read(run).log_prob(data.train.x.numpy())


@pytest.mark.parametrize("quantile", [0.01, 0.05, 0.5, 0.99])
def test_outliers_are_a_share_of_the_training_rows(
    trained: Path,
    asked: Asked,
    tmp_path: Path,
    quantile: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    density = training_density(trained)
    output = tmp_path / "out.csv"
    path = trained.parents[1] / "things.csv"
    given = (f"run={trained}", f"input={path}", f"output={output}", f"quantile={quantile}")
    predict(asked("predict", *given))
    _, table = answers(output)
    expected = table[:, 1] < np.quantile(density, quantile)
    np.testing.assert_array_equal(table[:, 2], expected)
    # By definition of a quantile of 210 rows.
    below = (density < np.quantile(density, quantile)).sum()
    assert below in (int(209 * quantile), int(209 * quantile) + 1)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith(f"300 rows, {int(expected.sum())} outliers (log-density below ")
    assert said[-1].endswith(f"the {quantile:g} quantile of the training rows): {output}")


@pytest.mark.parametrize("size", [1, 7, 256, 257, 258])
def test_blocks_do_not_matter(
    trained: Path, asked: Asked, tmp_path: Path, new: tuple[Path, Rows], size: int
) -> None:
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    given = (f"run={trained}", f"input={new[0]}")
    predict(asked("predict", *given, f"output={whole}"))
    predict(asked("predict", *given, f"output={parts}", f"batch_rows={size}"))
    (head, one), (same, other) = answers(whole), answers(parts)
    assert head == same
    np.testing.assert_array_equal(one[:, [0, 2]], other[:, [0, 2]])
    # A block of another size may be summed in another order by the matrix library.
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


def test_an_npz_holds_the_same(
    trained: Path, asked: Asked, tmp_path: Path, new: tuple[Path, Rows]
) -> None:
    given = (f"run={trained}", f"input={new[0]}", "batch_rows=100")
    predict(asked("predict", *given, f"output={tmp_path}/a.csv"))
    predict(asked("predict", *given, f"output={tmp_path}/a.npz"))
    _, table = answers(tmp_path / "a.csv")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"component", "log_density", "outlier", "responsibility"}
        assert arrays["component"].dtype.kind == "i"
        assert arrays["outlier"].dtype == np.bool_
        assert arrays["responsibility"].shape == (257, 3)
        together = np.column_stack(
            [arrays[n] for n in ("component", "log_density", "outlier", "responsibility")]
        )
    np.testing.assert_array_equal(together, table)


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "tsv"])
def test_every_kind_of_input(
    trained: Path, asked: Asked, tmp_path: Path, new: tuple[Path, Rows], suffix: str
) -> None:
    path, x = new
    other = tmp_path / f"same.{suffix}"
    if suffix == "npy":
        np.save(other, x)
    elif suffix == "npz":
        np.savez(other, x=x[:, ::-1], columns=np.array(["temp", "width", "mass"]))
    elif suffix == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(named(x, "width", "mass", "temp")), other)
    else:
        other.write_text(path.read_text().replace(",", "\t"))
    for source, target in ((path, "one"), (other, "two")):
        given = (f"run={trained}", f"input={source}", f"output={tmp_path}/{target}.csv")
        predict(asked("predict", *given))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_responsibilities_are_left_out(
    trained: Path, asked: Asked, tmp_path: Path, new: tuple[Path, Rows]
) -> None:
    given = (f"run={trained}", f"input={new[0]}", f"output={tmp_path}/a.csv")
    predict(asked("predict", *given, "responsibilities=false"))
    head, table = answers(tmp_path / "a.csv")
    assert head == HEAD[:3]
    assert len(table) == 257


def test_an_output_is_never_overwritten_unasked(
    trained: Path, asked: Asked, failing: Failing, tmp_path: Path, new: tuple[Path, Rows]
) -> None:
    output = tmp_path / "labels.csv"
    output.write_text("mine")
    given = (f"run={trained}", f"input={new[0]}", f"output={output}")
    failure = failing(*given, name="predict")
    assert f"{output} exists; choose another name" in failure.message
    for word in ("nope", "1", "null"):
        failure = failing(*given, f"overwrite={word}", name="predict")
        assert "overwrite must be true or false" in failure.message
    assert output.read_text() == "mine"
    predict(asked("predict", *given, "overwrite=true"))
    assert len(answers(output)[1]) == 257


def test_a_bad_last_row_leaves_what_was_there(
    trained: Path, failing: Failing, tmp_path: Path, new: tuple[Path, Rows]
) -> None:
    path, _ = new
    path.write_text(path.read_text() + "a,1,x,2\n")
    output = tmp_path / "labels.csv"
    output.write_text("mine")
    given = (f"run={trained}", f"input={path}", "batch_rows=10")
    before = sorted(p.name for p in tmp_path.iterdir())
    failure = failing(*given, f"output={output}", "overwrite=true", name="predict")
    assert "line 259, column width: expected a number, got 'x'" in failure.message
    assert output.read_text() == "mine"
    failing(*given, f"output={tmp_path}/deep/other.csv", name="predict")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("input=few.csv", "few.csv lacks the columns width, temp; it has: mass, length"),
        ("input=wide.npy", r"wide.npy has no names for its 4 columns; expected these 3, in this "),
        ("input=gone.csv", "there is no file gone.csv"),
        ("input=null", "say what to read and where to write"),
        ("output=null", "say what to read and where to write"),
        ("output=a.txt", "a.txt: expected a name that ends in .csv"),
        ("quantile=0", "quantile must be"),
        ("quantile=1.5", "quantile must be"),
        ("quantile=abc", "quantile must be in (0, 1), got 'abc'"),
        ("quantile=nan", "quantile must be"),
        ("batch_rows=0", "batch_rows must be an integer >= 1, got 0"),
        ("batch_rows=abc", "batch_rows must be an integer >= 1, got 'abc'"),
        ("responsibilities=maybe", "responsibilities must be true or false, got 'maybe'"),
    ],
)
def test_mistakes(
    refused: Callable[..., str], trained: Path, tmp_path: Path, words: str, said: str
) -> None:
    x, _ = things(5, seed=2)
    good = write_csv(tmp_path / "good.csv", named(x))
    write_csv(tmp_path / "few.csv", {"mass": x[:, 0].tolist(), "length": x[:, 1].tolist()})
    np.save(tmp_path / "wide.npy", np.ones((3, 4)))
    before = sorted(p.name for p in tmp_path.iterdir())
    given = {"input": good, "output": "out.csv"} | dict([words.split("=")])
    arguments = [f"{key}={value}" for key, value in given.items()]
    assert said in refused("predict", f"run={trained}", *arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_unknown_key(failing: Failing, trained: Path) -> None:
    failure = failing(f"run={trained}", "quantlie=0.1", name="predict")
    assert failure.code == 1
    assert "unknown key 'quantlie'" in failure.message
    # The word of another command.
    failure = failing(f"run={trained}", "data.missing=em", name="predict")
    assert failure.message.endswith("unknown key 'data.missing'; did you mean missing?")

"""A file as a data module: its parts, their labels, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.training import ArrayDataModule


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Row i is (i, 10 i), of class a, b or c in turn."""
    path = tmp_path / "rows.csv"
    path.write_text("u,v,kind\n" + "".join(f"{i},{10 * i},{'abc'[i % 3]}\n" for i in range(20)))
    return path


def test_a_file_becomes_rows_names_and_labels(path: Path) -> None:
    data = ArrayDataModule.file(path, label="kind", standardize=True)
    assert (data.name, data.columns, data.classes) == ("rows", ("u", "v"), ("a", "b", "c"))
    assert data.train.x.dtype == torch.float64
    assert data.train.x[:, 1].tolist() == [10.0 * i for i in range(20)]
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [i % 3 for i in range(20)]
    assert (data.val, data.test) == (None, None)
    assert data.standardize
    assert ArrayDataModule.file(str(path), columns=["v"]).columns == ("v",)
    assert ArrayDataModule.file(path).train.labels is None


def test_three_parts_of_one_file(path: Path) -> None:
    data = ArrayDataModule.file(path, label=2, val_fraction=0.2, test_fraction=0.3, seed=3)
    assert data.val is not None
    assert data.test is not None
    parts = (data.train.x, data.val.x, data.test.x)
    assert [len(part) for part in parts] == [10, 4, 6]
    assert sorted(torch.cat(parts)[:, 0].tolist()) == list(range(20))
    labels = (data.train.labels, data.val.labels, data.test.labels)
    for rows, codes in zip(parts, labels, strict=True):
        assert codes is not None
        assert rows[:, 0].tolist() == sorted(rows[:, 0].tolist())
        assert codes.tolist() == [int(i) % 3 for i in rows[:, 0]]


@pytest.mark.parametrize("fraction", [0.1, 0.35])
def test_a_test_set_leaves_the_validation_set_as_it_was(fraction: float) -> None:
    x = torch.arange(40.0)[:, None]
    without = ArrayDataModule(x, val_fraction=fraction, seed=5)
    data = ArrayDataModule(x, val_fraction=fraction, test_fraction=0.2, seed=5)
    # As in the first release: a run that is resumed keeps its split.
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    drawn = order[: round(40 * fraction)].sort().values.tolist()
    for module in (without, data):
        assert module.val is not None
        assert module.val.x[:, 0].tolist() == drawn
    assert without.test is None
    assert data.test is not None
    assert data.test.num_rows == 8


def test_only_a_test_set() -> None:
    data = ArrayDataModule(torch.zeros(10, 1), test_fraction=0.2)
    assert data.val is None
    assert data.test is not None
    assert (data.num_train_rows, data.test.num_rows, data.test.labels) == (8, 2, None)


def test_files_of_their_own_for_validation_and_test(path: Path) -> None:
    val, test = path.with_name("val.csv"), path.with_name("test.txt")
    val.write_text("kind;extra;v;u\nb;0;7;8\nz;0;9;10\n")
    test.write_text("u v kind\n1 2 c\n")
    options = {"val_fraction": 0.1, "test_fraction": 0.1}
    data = ArrayDataModule.file(path, label=-1, val_path=val, test_path=str(test), **options)
    assert data.num_train_rows == 20
    assert data.classes == ("a", "b", "c", "z")
    assert data.val is not None
    assert data.val.x.tolist() == [[8, 7], [10, 9]]
    assert data.val.labels is not None
    assert data.val.labels.tolist() == [1, 3]
    assert data.test is not None
    assert data.test.x.tolist() == [[1, 2]]
    # One of the two, and a share for the other.
    data = ArrayDataModule.file(path, label="kind", val_path=val, test_fraction=0.5)
    assert data.num_train_rows == 10
    assert data.test.labels is not None
    assert len(data.test.labels) == 10
    val.write_text("u,kind\n1,a\n")
    with pytest.raises(InvalidArgumentError) as caught:
        ArrayDataModule.file(path, label="kind", val_path=val)
    assert str(caught.value) == f"{val}: there is no column 'v'; the columns are: u, kind"


def test_arrays_in_files(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 3))
    np.save(tmp_path / "a.npy", x.astype(np.float32))
    np.savez(tmp_path / "b.npz", X=x, y=np.arange(12) % 2)
    assert ArrayDataModule.file(tmp_path / "a.npy").columns == ("x0", "x1", "x2")
    data = ArrayDataModule.file(tmp_path / "b.npz", label="y", val_path=tmp_path / "b.npz")
    assert data.classes == ("0", "1")
    assert (data.train.x.numpy() == x).all()
    assert data.val is not None
    assert (data.val.x.numpy() == x).all()


@pytest.mark.parametrize("path", [None, ""])
def test_no_path(path: str | None) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        ArrayDataModule.file(path)
    assert str(caught.value) == (
        "expected the path of a file to read; on the command line: data=file data.path=my.csv"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "val_fraction=0.6 and test_fraction=0.4 of"),
        ({"test_fraction": 0.01}, "test_fraction=0.01 of 20 rows leaves no rows on one side; 0"),
        ({"test_fraction": -0.1}, "test_fraction must be .* >= 0 and <= 1, got -0.1"),
        ({"test_fraction": "half"}, "test_fraction must be .* got 'half'"),
    ],
)
def test_shares_out_of_range(path: Path, options: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        ArrayDataModule.file(path, **options)


def test_a_bad_file_is_refused_before_anything_else(path: Path) -> None:
    good = path.with_name("good.csv")
    good.write_text(path.read_text())
    path.write_text(good.read_text().replace("\n7,70", "\n7,"))
    with pytest.raises(
        InvalidDataError, match=r"by column of 20 rows: v \(1\); the first in line 9"
    ):
        ArrayDataModule.file(path)
    with pytest.raises(GMMError, match="there is no file"):
        ArrayDataModule.file(good, val_path=path.with_name("none.csv"))

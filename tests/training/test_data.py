"""Rows in memory as a data module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gmm_lightning.datasets import load, names
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.training import ArrayDataModule


def rows(n: int = 40, d: int = 3) -> torch.Tensor:
    return torch.arange(float(n * d), dtype=torch.float64).reshape(n, d)


def test_without_validation_nothing_is_copied() -> None:
    x = rows()
    data = ArrayDataModule(x)
    assert data.train.x.data_ptr() == x.data_ptr()
    assert data.val is None
    assert data.val_dataloader() == []
    assert (data.num_train_rows, data.num_features) == (40, 3)
    array = np.zeros((4, 2))
    assert ArrayDataModule(array).train.x.data_ptr() == array.ctypes.data


@pytest.mark.parametrize(("fraction", "num_val"), [(0.1, 4), (0.25, 10), (0.5, 20), (0.96, 38)])
def test_the_split_is_a_partition_in_order(fraction: float, num_val: int) -> None:
    labels = torch.arange(40)
    data = ArrayDataModule(rows(), labels=labels, val_fraction=fraction, seed=1)
    assert data.val is not None
    assert data.train.labels is not None
    assert (data.val.num_rows, data.num_train_rows) == (num_val, 40 - num_val)
    val, train = (data.val.x[:, 0] / 3).long(), (data.train.x[:, 0] / 3).long()
    assert sorted([*val.tolist(), *train.tolist()]) == list(range(40))
    assert train.tolist() == sorted(train.tolist())
    assert torch.equal(data.train.labels, train)


def test_the_split_is_a_function_of_the_seed() -> None:
    def drawn(seed: int) -> list[float]:
        return ArrayDataModule(rows(), val_fraction=0.5, seed=seed).train.x[:, 0].tolist()

    torch.manual_seed(1)
    first = drawn(0)
    torch.manual_seed(2)
    assert drawn(0) == first
    assert drawn(1) != first


@pytest.mark.parametrize("standardize", [True, False])
def test_loaders_read_what_they_say(standardize: bool) -> None:
    data = ArrayDataModule(
        rows(), val_fraction=0.25, batch_size=7, shuffle=True, standardize=standardize
    )
    assert data.val is not None
    train = torch.cat([batch.x for batch in data.train_dataloader()])
    assert not torch.equal(train, data.train.x)
    assert torch.equal(train.sort(0).values, data.train.x)
    # The model standardises; the rows stay in the user's units.
    assert torch.equal(torch.cat([b.x for b in data.predict_dataloader()]), data.train.x)
    loader = data.val_dataloader()
    assert torch.equal(torch.cat([b.x for b in loader]), data.val.x)
    assert max(len(b.x) for b in loader) <= 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_units_are_those_of_the_training_rows(dtype: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(500, 3, generator=generator, dtype=torch.float64) + offset).to(dtype)
    data = ArrayDataModule(x, val_fraction=0.2)
    mean, deviation = data.units()
    train = data.train.x.double()
    assert mean.dtype == deviation.dtype == torch.float64
    # Sums of 400 float64 numbers of size 1e6 round at about 1e6 * eps * 10 = 2e-9.
    torch.testing.assert_close(mean, train.mean(0), rtol=0, atol=1e-8)
    torch.testing.assert_close(deviation, train.std(0, correction=0), rtol=1e-9, atol=0)


def test_units_of_a_large_offset_do_not_cancel() -> None:
    # Spacing of float64 at 1e12 is 1.2e-4: the deviation of {0, 1} about it is exact.
    x = torch.tensor([[1e12], [1e12 + 1.0]], dtype=torch.float64)
    mean, deviation = ArrayDataModule(x).units()
    assert float(mean) == 1e12 + 0.5
    assert float(deviation) == 0.5


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(6).reshape(3, 2),
        torch.arange(6, dtype=torch.uint8).reshape(3, 2),
        torch.tensor([[True, False]]),
        torch.zeros(3, 2, dtype=torch.float16),
        torch.zeros(3, 2, dtype=torch.bfloat16),
        np.zeros((3, 2), dtype=np.int32),
        np.zeros((3, 2), dtype=">f8"),
        np.zeros((3, 2))[::-1],
        [[1.0, 2.0], [3.0, 4.0]],
    ],
)
def test_every_real_dtype_is_accepted(x: Any) -> None:
    data = ArrayDataModule(x, standardize=True)
    assert data.num_features == 2
    assert all(bool(torch.isfinite(part).all()) for part in data.units())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(5), r"expected a matrix.*\(5,\).*x\.reshape"),
        (torch.zeros(2, 3, 4), r"expected a matrix.*\(2, 3, 4\)"),
        (torch.zeros(0, 3), r"expected a matrix.*\(0, 3\)"),
        (torch.zeros(3, 0), r"expected a matrix.*\(3, 0\)"),
        (torch.tensor([[0.0], [float("nan")], [float("inf")]]), r"row\(s\) 1, 2"),
        (np.array([["a", "b"]]), "must hold numbers"),
        ([[1.0], [1.0, 2.0]], "rectangular"),
        (torch.zeros(2, 2, dtype=torch.complex64), "real numbers"),
    ],
)
def test_unusable_rows_are_refused(x: Any, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        ArrayDataModule(x)


def test_units_that_overflow_are_refused() -> None:
    x = rows()
    x[3, 1] = 1e200
    with pytest.raises(InvalidDataError, match=r"too large for torch.float64; divide them by"):
        ArrayDataModule(x, standardize=True).units()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, "val_fraction=1.0 of 40 rows leaves no rows on one side"),
        ({"val_fraction": -0.1}, "val_fraction must be .* >= 0 and <= 1, got -0.1"),
        ({"val_fraction": 0.01}, "leaves no rows on one side"),
        ({"val_fraction": 0.99}, "leaves no rows on one side"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"columns": ["a", "b"]}, "columns must name the 3 features, got 2 names"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ArrayDataModule(rows(), **options)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidDataError, match=r"labels must be of shape \(40,\).*\(39,\)"):
        ArrayDataModule(rows(), labels=torch.zeros(39))


@pytest.mark.parametrize("name", names())
def test_builtin_is_the_standard_training_part(name: str) -> None:
    data, stored = ArrayDataModule.builtin(name), load(name)
    assert torch.equal(data.train.x, torch.from_numpy(stored.x[: stored.num_train]))
    assert data.columns == stored.columns
    assert data.name == name
    assert (data.train.labels is None) == (stored.labels is None)
    if data.train.labels is not None and stored.labels is not None:
        expected = torch.from_numpy(stored.labels[: stored.num_train])
        assert torch.equal(data.train.labels, expected)


def test_an_unknown_builtin_lists_the_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match="faithful, letter, penguins"):
        ArrayDataModule.builtin("nope")


def test_builtin_takes_the_options_of_the_class() -> None:
    data = ArrayDataModule.builtin("faithful", val_fraction=0.5, batch_size=10, shuffle=True)
    assert (data.num_train_rows, data.batch_size, data.shuffle) == (136, 10, True)

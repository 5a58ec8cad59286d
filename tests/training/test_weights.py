"""Sample weights: 2 is a row twice, 0 is no row, by EM and by gradient descent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lightning_runs import adam, distance, state, trainer
from torch import Tensor

from gmm_lightning import GMMLayer
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import ArrayRows, Batch
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    GMMModule,
    InitializeCallback,
    StreamDataModule,
)
from gmm_lightning.training.loader import RowLoader

# Sums over 101 rows in another order, through a few passes of EM or steps of Adam.
CLOSE = 1e-10


@pytest.fixture
def weight(x: Tensor) -> Tensor:
    """0, 1, 2 or 3 for each row."""
    return torch.arange(len(x), dtype=torch.float64) % 4


@pytest.fixture
def repeated(x: Tensor, weight: Tensor) -> Tensor:
    """Each row as often as it counts."""
    return x.repeat_interleave(weight.long(), 0)


def started(x: Tensor) -> GMMLayer:
    """A start that does not depend on weights."""
    layer = GMMLayer(2, 3, priors=["dirichlet", "niw"])
    layer.set_parameters(
        torch.ones(3) / 3, x[[3, 50, 80]], 2 * torch.eye(2, dtype=x.dtype).repeat(3, 1, 1)
    )
    return layer


def fitted(data: Any, x: Tensor, fit: str, passes: int = 4) -> tuple[GMMModule, dict[str, Tensor]]:
    module = GMMModule(started(x), adam() if fit == "sgd" else None)
    em = [EMCallback()] if fit == "em" else []
    run = trainer(InitializeCallback(None), *em, max_epochs=passes)
    run.fit(module, datamodule=data)
    return module, run.callback_metrics


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_a_weight_is_so_many_rows(
    x: Tensor, weight: Tensor, repeated: Tensor, fit: str, standardize: bool
) -> None:
    # Full batches: a step of gradient descent holds the same rows either way.
    options: dict[str, Any] = {"standardize": standardize, "batch_size": 1000}
    options |= {"shuffle": fit == "sgd"}
    ours, logged = fitted(ArrayDataModule(x, sample_weight=weight, **options), x, fit)
    theirs, expected = fitted(ArrayDataModule(repeated, **options), x, fit)
    found, known = state(ours), state(theirs)
    # The unit of the floor is read from windows of some rows at least, and copies are rows.
    for own in (found, known):
        assert own.pop("layer.local_scale").isfinite().all()
    assert distance(found, known) < CLOSE
    assert logged.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(logged[key], value, rtol=CLOSE, atol=CLOSE, msg=key)


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_equal_weights_of_any_size_change_nothing_without_priors(x: Tensor, fit: str) -> None:
    results = []
    for size in (None, 1e-6, 1.0, 1e6):
        weight = None if size is None else torch.full((len(x),), size)
        module = GMMModule(GMMLayer(2, 3), adam() if fit == "sgd" else None)
        data = ArrayDataModule(x, sample_weight=weight, batch_size=20, shuffle=fit == "sgd")
        em = [EMCallback()] if fit == "em" else []
        trainer(InitializeCallback(), *em).fit(module, datamodule=data)
        results.append(state(module))
    # Adam divides by the size of gradients, which rounding then moves a little more.
    assert max(distance(results[0], other) for other in results[1:]) < 1e-7


def test_the_units_are_weighted(x: Tensor, weight: Tensor, repeated: Tensor) -> None:
    ours = ArrayDataModule(x, sample_weight=weight).units()
    for a, b in zip(ours, ArrayDataModule(repeated).units(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_validation_is_weighted(x: Tensor, weight: Tensor) -> None:
    data = ArrayDataModule(x, sample_weight=weight, val_fraction=0.3, batch_size=7)
    module, logged = fitted(data, x, "em")
    assert data.val.x is not None
    assert data.val.weight is not None
    expected = (data.val.weight * module.log_prob(data.val.x).detach()).sum()
    expected = expected / data.val.weight.sum()
    torch.testing.assert_close(logged["val/log_likelihood"], expected, rtol=1e-12, atol=0)


def test_the_prior_is_divided_by_the_total_weight(x: Tensor, weight: Tensor) -> None:
    module, logged = fitted(ArrayDataModule(x, sample_weight=weight), x, "em", passes=1)
    layer = started(x)
    for prior, own in zip(layer.all_priors, module.layer.all_priors, strict=True):
        prior.load_state_dict(own.state_dict())
    expected = ((weight * layer.log_prob(x)).sum() + layer.log_prior()) / weight.sum()
    torch.testing.assert_close(logged["train/objective"], expected.detach(), rtol=1e-12, atol=0)


def test_parts_keep_the_weights_of_their_rows(x: Tensor) -> None:
    weight = x[:, 0].abs()
    data = ArrayDataModule(x, sample_weight=weight, val_fraction=0.2, test_fraction=0.1, seed=2)
    for name, size in (("train", 71), ("val", 20), ("test", 10)):
        part = data.part(name)
        assert part is not None
        batch = part.batch
        assert batch.weight is not None
        assert len(batch.weight) == part.num_rows == size
        assert torch.equal(batch.weight, batch.x[:, 0].abs())
    assert data.train.weight is not None
    assert data.total_weight == pytest.approx(float(data.train.weight.sum()), rel=1e-15)


@pytest.mark.parametrize("epoch", [None, 3])
def test_batches_carry_the_weights_of_their_rows(x: Tensor, epoch: int | None) -> None:
    source = ArrayRows(Batch(x, x[:, 1]))
    when = None if epoch is None else lambda: epoch
    loader = RowLoader(source, 10, rank=1, world_size=2, epoch=when)
    for batch in loader:
        assert batch.weight is not None
        assert torch.equal(batch.weight, batch.x[:, 1])


@pytest.mark.parametrize("kind", ["csv", "npy", "npz"])
def test_the_weight_is_a_column_of_a_file(
    x: Tensor, weight: Tensor, tmp_path: Path, kind: str
) -> None:
    path, column = tmp_path / f"a.{kind}", {"csv": "mass", "npy": 2, "npz": "mass"}[kind]
    table = torch.cat([x, weight[:, None]], 1).numpy()
    if kind == "csv":
        np.savetxt(path, table, delimiter=",", header="a,b,mass", comments="", fmt="%.17g")
    elif kind == "npy":
        np.save(path, table)
    else:
        np.savez(path, x=x.numpy(), mass=weight.numpy())
    expected, _ = fitted(ArrayDataModule(x, sample_weight=weight, standardize=True), x, "em")
    options: dict[str, Any] = {"weight": column, "standardize": True}
    for data in (ArrayDataModule.file(path, **options), StreamDataModule(path, **options)):
        assert data.num_features == 2
        assert data.total_weight == float(weight.sum())
        ours, _ = fitted(data, x, "em")
        assert distance(state(ours), state(expected)) < 1e-12


def test_a_label_and_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("u,kind,mass\n" + "".join(f"{i},{'ab'[i % 2]},{i}\n" for i in range(10)))
    data = ArrayDataModule.file(path, label="kind", weight="mass", val_path=path)
    assert data.columns == ("u",)
    for name in ("train", "val"):
        part = data.part(name)
        assert part is not None
        assert part.batch.labels is not None
        assert part.batch.weight is not None
        assert part.batch.labels.tolist() == [0, 1] * 5
        assert part.batch.weight.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0] * 100, r"sample_weight must broadcast to \(101,\), got shape \(100,\)"),
        ([[1.0]] * 101, r"sample_weight must broadcast to \(101,\), got shape \(101, 1\)"),
        ([1.0, -1.0] + [1.0] * 99, r"finite and >= 0; it is not in row\(s\) 1$"),
        ([float("nan")] * 101, r"not in row\(s\) 0, 1, 2, .*9 and 91 more"),
        ([float("inf")] + [1.0] * 100, r"not in row\(s\) 0$"),
        ([0] * 101, "all sample weights of the training set are 0"),
        (["a"] * 101, "sample_weight must hold numbers"),
    ],
)
def test_weights_that_cannot_be(x: Tensor, weight: Any, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        ArrayDataModule(x, sample_weight=weight)


def test_a_part_without_weight_is_refused(x: Tensor) -> None:
    whole = ArrayDataModule(torch.arange(101.0)[:, None], val_fraction=0.1)
    assert whole.val.x is not None
    weight = torch.ones(101)
    weight[whole.val.x[:, 0].long()] = 0.0
    with pytest.raises(InvalidDataError, match="all sample weights of the validation set are 0"):
        ArrayDataModule(x, sample_weight=weight, val_fraction=0.1)


def test_a_column_has_one_part_to_play(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("u,v\n1,2\n3,4\n")
    with pytest.raises(InvalidArgumentError, match="u is both the label and the weight"):
        ArrayDataModule.file(tmp_path / "a.csv", label="u", weight="u")
    with pytest.raises(InvalidArgumentError, match="there is no weight column 'w'"):
        ArrayDataModule.file(tmp_path / "a.csv", weight="w")

"""`trainer.test`, `trainer.validate` and `trainer.predict` of a `GMMModule`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.evidence import LabelEvidence
from support.lightning_runs import fitted, trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    GMMModule,
    InitializeCallback,
    Prediction,
    StreamDataModule,
)

# The same rows in other products: rounding of a density of some nats.
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def module(x: Tensor) -> GMMModule:
    """A fitted mixture whose standard units are not the user's."""
    return fitted(100 * x + 7, data={"standardize": True})[0]


def joined(parts: Any) -> Prediction:
    assert all(isinstance(part, Prediction) for part in parts)
    return Prediction(*map(torch.cat, zip(*parts, strict=True)))


@pytest.mark.parametrize("kind", ["array", "stream", "rows", "tuple", "mapping"])
def test_predictions_are_in_the_order_and_units_of_the_rows(
    x: Tensor, module: GMMModule, kind: str, tmp_path: Path
) -> None:
    x = 100 * x + 7
    np.savetxt(tmp_path / "x.csv", x.numpy(), "%.17g", ",", header="a,b", comments="")
    pairs: Any = [{"x": row, "y": 0} for row in x]
    source: Any = {
        "array": lambda: ArrayDataModule(x, batch_size=40, shuffle=True, standardize=True),
        "stream": lambda: StreamDataModule(tmp_path / "x.csv", batch_size=40, shuffle=True),
        "rows": lambda: DataLoader(x, batch_size=40),  # pyright: ignore
        "tuple": lambda: DataLoader(TensorDataset(x, x), batch_size=40),
        "mapping": lambda: DataLoader(pairs, batch_size=40),
    }[kind]()
    found = joined(trainer().predict(module, source))
    torch.testing.assert_close(found.log_prob, module.log_prob(x).detach(), **CLOSE)
    assert torch.equal(found.component, module.predict(x))
    torch.testing.assert_close(found.responsibilities, module.responsibilities(x).detach(), **CLOSE)
    assert found.responsibilities.shape == (len(x), 3)
    assert not found.log_prob.requires_grad


def test_as_it_was_reported(x: Tensor) -> None:
    data, module = ArrayDataModule(x[:60], batch_size=20), GMMModule(GMMLayer(2, 2))
    run = trainer(InitializeCallback(), EMCallback(), max_epochs=2)
    run.fit(module, datamodule=data)
    parts: Any = run.predict(module, datamodule=data)
    assert [part.log_prob.shape for part in parts] == [(20,)] * 3
    with pytest.raises(InvalidDataError, match=r"no test set: .*test_fraction=0.1.*dataloaders="):
        run.test(module, datamodule=data)
    with pytest.raises(InvalidDataError, match=r"no validation set: .*val_fraction=0.1"):
        run.validate(module, datamodule=data)


@pytest.mark.parametrize("fit", ["em", "sgd"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_test_is_a_weighted_mean_over_all_rows(x: Tensor, fit: str, weighted: bool) -> None:
    weight = (torch.arange(len(x)) % 4).double() if weighted else None
    options: dict[str, Any] = {"sample_weight": weight, "batch_size": 7, "standardize": True}
    options |= {"test_fraction": 0.3, "val_fraction": 0.2}
    module, run = fitted(x, fit, data=options)
    data: Any = run.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    module.requires_grad_(requires_grad=False)
    for part, (logged,) in (
        ("test", run.test(module, data, verbose=False)),
        ("val", run.validate(module, data, verbose=False)),
        ("test", trainer().test(module, data, verbose=False)),
    ):
        rows = getattr(data, part)
        each = torch.ones(rows.num_rows) if rows.weight is None else rows.weight
        expected = (module.log_prob(rows.x) * each).sum() / each.sum()
        assert list(logged) == [f"{part}/log_likelihood"]
        assert logged[f"{part}/log_likelihood"] == pytest.approx(expected.item(), rel=1e-12)


def test_several_loaders_have_a_number_each(x: Tensor, module: GMMModule) -> None:
    loaders = [DataLoader(TensorDataset(part), batch_size=10) for part in (x[:31], x[31:])]
    for part, (first, second) in (
        ("test", trainer().test(module, loaders, verbose=False)),
        ("val", trainer().validate(module, loaders, verbose=False)),
    ):
        name = f"{part}/log_likelihood"
        both = {**first, **second}
        assert both[name] == pytest.approx(module.log_prob(x[:31]).mean().item(), rel=1e-12)
        other = module.log_prob(x[31:]).mean().item()
        assert both[f"{name}/dataloader_idx_1"] == pytest.approx(other, rel=1e-12)
    predictions: Any = trainer().predict(module, loaders)
    assert [len(joined(parts).component) for parts in predictions] == [31, len(x) - 31]


def test_the_evidence_of_a_layer_sees_labels(x: Tensor) -> None:
    module, labels = GMMModule(GMMLayer(2, 3)), torch.arange(len(x)) % 3
    module.layer.evidence = LabelEvidence(3)
    found = joined(trainer().predict(module, ArrayDataModule(x, labels=labels, batch_size=20)))
    assert torch.equal(found.component, labels)


def test_a_batch_of_mixtures_predicts_for_each(x: Tensor) -> None:
    module = GMMModule(GMMLayer(2, 3, batch_shape=(4,)))
    rows = x[:, None].expand(-1, 4, -1)
    found = joined(trainer().predict(module, DataLoader(rows, batch_size=40)))  # pyright: ignore
    assert found.log_prob.shape == found.component.shape == (len(x), 4)
    assert found.responsibilities.shape == (len(x), 4, 3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_precision(x: Tensor, precision: Any) -> None:
    torch.set_default_dtype(torch.float32)
    module = GMMModule(GMMLayer(2, 3))
    run = trainer(precision=precision)
    (logged,) = run.test(module, DataLoader(x.float(), batch_size=40), verbose=False)  # pyright: ignore
    expected = module.log_prob(x.float()).double().mean().item()
    # Autocast leaves densities alone: float32 either way.
    assert logged["test/log_likelihood"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_rows_that_are_not_finite_are_refused(x: Tensor, module: GMMModule, method: str) -> None:
    x = x.clone()
    x[3, 1] = torch.nan
    loader = DataLoader(TensorDataset(x), batch_size=len(x))
    with pytest.raises(InvalidDataError, match=r"row\(s\) 3"):
        getattr(trainer(), method)(module, loader)

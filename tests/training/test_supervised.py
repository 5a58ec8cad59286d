"""Labels under Lightning: what learns from them, what is reported, and data modules of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lightning_runs import adam, trainer
from torch import Tensor

from gmm_lightning import GMMLayer, fit_em, resolve_priors
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence import Labels, labels_of
from gmm_lightning.rows import Batch
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    GMMModule,
    InitializeCallback,
    StepwiseEMCallback,
    StreamDataModule,
)

pytestmark = pytest.mark.usefixtures("double")

Rows = tuple[Tensor, Tensor]


@pytest.fixture
def rows(generator: torch.Generator) -> Rows:
    """Two classes of two clusters each that overlap; half of the rows have labels."""
    which = torch.arange(120) % 4
    centre = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [3.0, 3.0]])
    x = centre[which] + torch.randn(120, 2, generator=generator)
    labels = (which >= 2).long()
    return x, torch.where(torch.arange(120) % 2 < 1, labels, -1)


def layer() -> GMMLayer:
    return GMMLayer(2, 4, priors="niw", evidence=Labels.of_classes(2, 2))


def test_training_reads_labels_and_validation_does_not(rows: Rows) -> None:
    x, labels = rows
    data = ArrayDataModule(x, labels=labels, val_fraction=0.25, batch_size=16)
    module = GMMModule(layer())
    run = trainer(InitializeCallback(), EMCallback(acceleration=None), max_epochs=3)
    run.fit(module, datamodule=data)
    assert data.val is not None
    plain = module.layer.log_prob(data.val.x).mean().detach()
    assert float(run.callback_metrics["val/log_likelihood"]) == pytest.approx(float(plain))
    joint = module.layer.log_prob(data.val).mean().detach()
    assert abs(float(joint - plain)) > 0.05
    # The rows of training count with their labels, under the parameters before the last M-step.
    other = layer()
    seen = fit_em(other, data.train, max_iter=2, tol=0.0, acceleration=None, generator=0)
    shown = float(run.callback_metrics["train/log_likelihood"])
    assert shown == pytest.approx(float(seen.log_likelihood), rel=1e-9)
    found: Any = run.predict(module, data)
    expected = module.responsibilities(data.train.x)
    assert torch.equal(torch.cat([part.responsibilities for part in found]), expected)


@pytest.mark.parametrize("kind", ["stepwise", "gradient"])
def test_other_ways_of_training_learn_from_labels(rows: Rows, kind: str) -> None:
    x, labels = rows
    module = GMMModule(layer(), adam(0.05) if kind == "gradient" else None)
    em = [StepwiseEMCallback()] if kind == "stepwise" else []
    data = ArrayDataModule(x, labels=labels, batch_size=30, shuffle=True)
    trainer(InitializeCallback(), *em, max_epochs=30).fit(module, datamodule=data)
    batch, best = Batch(x, labels=labels), layer()
    fit_em(best, batch, generator=0)
    objective = float(module.layer.objective(batch).detach())
    # EM finds the mode; the last mini-batches are noise around it.
    assert float(best.objective(batch).detach()) - objective < 0.1
    known = labels >= 0
    assert (module.predict_class(x)[known] == labels[known]).double().mean() > 0.8


def test_a_gradient_fit_refuses_labels_that_are_no_classes(rows: Rows) -> None:
    x, labels = rows
    module = GMMModule(layer(), adam())
    resolve_priors(module.layer, x)
    labels[3] = 2
    data = ArrayDataModule(x, labels=labels)
    with pytest.raises(InvalidDataError, match=r"classes from 0 to 1, or -1 .* row\(s\) 3$"):
        trainer(max_epochs=1).fit(module, datamodule=data)


def test_unlabelled_rows_of_data_modules_weigh_less(tmp_path: Path, rows: Rows) -> None:
    x, labels = rows
    weight = torch.rand(120) + 0.5
    cells = ["" if c < 0 else "ab"[c] for c in labels.tolist()]
    table = zip(x.tolist(), weight.tolist(), cells, strict=True)
    path = tmp_path / "rows.csv"
    path.write_text("a,b,w,kind\n" + "".join(f"{a!r},{b!r},{w!r},{c}\n" for (a, b), w, c in table))
    own: dict[str, Any] = {"unlabeled_weight": 0.25, "batch_size": 50}
    modules = [
        ArrayDataModule(x, labels=labels, sample_weight=weight, **own),
        ArrayDataModule.file(path, label="kind", weight="w", **own),
        StreamDataModule(path, label="kind", weight="w", **own),
    ]
    expected = torch.where(labels < 0, 0.25, 1.0) * weight
    for data in modules:
        assert data.total_weight == pytest.approx(float(expected.sum()), rel=1e-12)
        for some in (data.train_dataloader(), data.train_source(labels=True).read(size=50)):
            found = torch.cat([b.weight for b in some if b.weight is not None])
            assert torch.allclose(found, expected, rtol=1e-15)
    (some,) = modules[2].train_source().read_at([30], 5)
    assert some.weight is not None
    assert torch.equal(some.weight, expected[30:35])
    with pytest.raises(InvalidArgumentError, match="is for data of which some rows have labels"):
        ArrayDataModule(x, unlabeled_weight=0.5)
    with pytest.raises(InvalidArgumentError, match="is for data of which some rows have labels"):
        StreamDataModule(path, columns=["a", "b"], unlabeled_weight=0.5)


def test_validation_files_have_the_codes_of_the_training_set(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x,kind\n1,fir\n2,oak\n3,\n")
    (tmp_path / "val.csv").write_text("x,kind\n1,oak\n2,ash\n3,\n")
    data = StreamDataModule(tmp_path / "train.csv", label="kind", val_path=tmp_path / "val.csv")
    assert data.classes == ("fir", "oak")
    codes = []
    for part in ("train", "val"):
        source = data.part(part, labels=True)
        assert source is not None
        codes += [batch.labels.tolist() for batch in source if batch.labels is not None]
    # No ash is known.
    assert codes == [[0, 1, -1], [1, -1, -1]]


def test_the_checkpoint_of_a_fit_holds_its_classes(tmp_path: Path, rows: Rows) -> None:
    x, labels = rows
    module = GMMModule(layer())
    run = trainer(InitializeCallback(), EMCallback(), max_epochs=2)
    run.fit(module, datamodule=ArrayDataModule(x, labels=labels, classes=("no", "yes")))
    run.save_checkpoint(tmp_path / "last.ckpt")
    twin = GMMModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(twin.predict_class(x), module.predict_class(x))
    assert twin.data["classes"] == ["no", "yes"]
    evidence = labels_of(twin.layer.evidence)
    assert evidence is not None
    assert evidence.class_of_component == [0, 0, 1, 1]


def test_soft_labels_of_a_data_module(rows: Rows) -> None:
    x, labels = rows
    soft = torch.nn.functional.one_hot(labels.clamp(min=0), 2).double()
    soft[labels < 0] = np.nan
    module, other = GMMModule(layer()), layer()
    run = trainer(InitializeCallback(), EMCallback(acceleration=None), max_epochs=3)
    run.fit(module, datamodule=ArrayDataModule(x, labels=soft))
    fit_em(other, x, labels=labels, max_iter=3, tol=0.0, acceleration=None, generator=0)
    assert torch.allclose(module.layer.means, other.means, rtol=1e-10, atol=1e-10)

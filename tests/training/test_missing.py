"""Rows with missing entries and with errors, from data modules through fits to predictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.csv_run import write_csv
from support.lightning_runs import adam, same, state, trainer
from torch import Tensor
from torch.utils.data import DataLoader

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch, errors_of
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    EpochCheckpoint,
    GMMModule,
    InitializeCallback,
    MixtureLogger,
    StepwiseEMCallback,
    StreamDataModule,
    draw_mixture,
)

# The sums of EM round in another order in batches and in other units; 12 passes carry it on.
CLOSE: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}


@pytest.fixture
def holed(x: Tensor) -> Tensor:
    """The rows in other units, some entries missing, and all of one row."""
    x = x * torch.tensor([1.0, 50.0]) + torch.tensor([3.0, -70.0])
    hidden = (torch.arange(x.numel()).reshape(x.shape) * 7) % 5 == 0
    hidden[17] = True
    return x.masked_fill(hidden, torch.nan)


def module(**options: Any) -> GMMModule:
    return GMMModule(GMMLayer(2, 2, priors="niw"), **options)


def fitted(data: Any, *callbacks: Any, passes: int = 12, **options: Any) -> tuple[GMMModule, Any]:
    made = module(**options)
    run = trainer(InitializeCallback("kmeans", seed=3), *callbacks, max_epochs=passes)
    run.fit(made, data)
    return made, run


# -- fits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
def test_a_data_module_fits_as_fit_em(holed: Tensor, standardize: bool) -> None:
    data = ArrayDataModule(holed, missing="em", standardize=standardize, batch_size=30)
    made, run = fitted(data, EMCallback(acceleration=None))
    own = made.standardize
    layer, z = GMMLayer(2, 2, priors="niw"), own(holed)
    generator = torch.Generator().manual_seed(3)
    initialize_layer(layer, z, "kmeans", missing="em", generator=generator)
    how: dict[str, Any] = {"max_iter": 12, "tol": 0.0, "acceleration": None}
    fit_em(layer, z, initializer=None, missing="em", **how)
    torch.testing.assert_close(made.layer.means, layer.means, **CLOSE)
    torch.testing.assert_close(made.layer.raw_scale, layer.raw_scale, **CLOSE)
    # Each row in the units of the entries that it has.
    shown = run.callback_metrics["train/log_likelihood"]
    reached = made.log_prob(holed, missing="marginalize").detach().mean()
    assert abs(float(shown - reached)) < 1e-3
    seen = ~torch.isnan(holed)
    units = -(seen.double() @ own.scale.log())
    expected = made.layer.log_prob(z, missing="marginalize") + units
    torch.testing.assert_close(made.log_prob(holed, missing="marginalize"), expected)


def test_units_are_those_of_the_observed_entries(holed: Tensor) -> None:
    weight = torch.arange(101) % 3
    data = ArrayDataModule(holed, missing="em", sample_weight=weight, standardize=True)
    loc, scale = data.units()
    for j in range(2):
        seen = ~torch.isnan(holed[:, j])
        own, w = holed[seen, j].numpy(), weight[seen].numpy()
        mean = np.average(own, weights=w)
        assert float(loc[j]) == pytest.approx(mean, rel=1e-12)
        assert float(scale[j]) == pytest.approx(np.sqrt(np.average((own - mean) ** 2, weights=w)))


def test_without_missing_entries_nothing_changes(x: Tensor) -> None:
    ends = []
    for missing in ("refuse", "em"):
        data = ArrayDataModule(x, missing=missing, standardize=True, val_fraction=0.2)
        made, run = fitted(data, EMCallback())
        shown = {name: value.clone() for name, value in run.callback_metrics.items()}
        ends.append(state(made) | shown)
    assert same(*ends)


@pytest.mark.parametrize("by", ["em", "stepwise", "sgd"])
def test_what_is_logged_is_of_the_observed_entries(holed: Tensor, by: str) -> None:
    data = ArrayDataModule(holed, missing="em", standardize=True, val_fraction=0.3, batch_size=80)
    callbacks = {"em": [EMCallback()], "stepwise": [StepwiseEMCallback()], "sgd": []}[by]
    # A rate at which a pass changes nothing that is seen here.
    made, run = fitted(data, *callbacks, optimizer=adam(1e-7) if by == "sgd" else None, passes=40)
    assert data.val is not None
    validated = made.log_prob(data.val.x, missing="marginalize").detach().mean()
    assert float(run.callback_metrics["val/log_likelihood"]) == pytest.approx(float(validated))
    # Logged under the parameters before the last steps. The scales of the missing entries would
    # make a difference of more than 0.5.
    trained = made.log_prob(data.train.x, missing="marginalize").detach().mean()
    shown = float(run.callback_metrics["train/log_likelihood"])
    assert shown == pytest.approx(float(trained), abs=1e-2)
    parts: Any = run.predict(made, data)
    found = torch.cat([part.log_prob for part in parts])
    torch.testing.assert_close(found, made.log_prob(data.train.x, missing="marginalize"))


def test_gradients_are_those_of_the_observed_entries(holed: Tensor) -> None:
    data = ArrayDataModule(holed, missing="em", batch_size=101)
    made, _ = fitted(data, optimizer=adam(0.01), passes=1)
    layer = GMMLayer(2, 2, priors="niw")
    generator = torch.Generator().manual_seed(3)
    initialize_layer(layer, holed, "kmeans", missing="em", generator=generator)
    optimizer = adam(0.01)(layer.parameters())
    loss = -(layer.log_prob(holed, missing="marginalize").mean() + layer.log_prior() / 101)
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(made.layer.means, layer.means, **CLOSE)
    torch.testing.assert_close(made.layer.raw_scale, layer.raw_scale, **CLOSE)


def test_loaders_are_told_by_the_callback_or_the_module(holed: Tensor) -> None:
    loader: Any = DataLoader([Batch(part) for part in holed.split(40)], batch_size=None)
    start = InitializeCallback("kmeans", seed=3, missing="em")
    first, second = module(), module(missing="em")
    trainer(start, EMCallback(missing="em")).fit(first, loader, loader)
    trainer(InitializeCallback("kmeans", seed=3), EMCallback()).fit(second, loader, loader)
    assert same(state(first), state(second))
    with pytest.raises(InvalidDataError, match="missing"):
        trainer(InitializeCallback("kmeans"), EMCallback()).fit(module(), loader, loader)


def test_a_fit_goes_on_from_its_checkpoint(holed: Tensor, tmp_path: Path) -> None:
    data = ArrayDataModule(holed, missing="em", standardize=True, batch_size=30)
    whole, run = fitted(data, EMCallback(), passes=8)
    for passes, path in ((4, None), (8, tmp_path / "last.ckpt")):
        made = module()
        start = InitializeCallback("kmeans", seed=3)
        again = trainer(start, EMCallback(), EpochCheckpoint(tmp_path), max_epochs=passes)
        again.fit(made, data, ckpt_path=path, weights_only=path and True)
    assert same(state(whole), state(made))
    for name, value in run.callback_metrics.items():
        assert torch.equal(again.callback_metrics[name], value)
    loaded = GMMModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.missing == "em"


def test_reseeding_takes_rows_that_have_all_entries(holed: Tensor) -> None:
    data = ArrayDataModule(holed, missing="em", batch_size=30)
    labels = torch.zeros(101, dtype=torch.long)
    labels[5] = 1
    made = GMMModule(GMMLayer(2, 2))
    callback = EMCallback(collapse="reseed")
    trainer(InitializeCallback(labels), callback, max_epochs=8).fit(made, data)
    assert torch.isfinite(made.layer.means).all()


# -- parts, files, and what is left out ----------------------------------------------------------


def table(folder: Path, x: Tensor, **columns: Any) -> Path:
    values: dict[str, Any] = {
        name: ["" if math.isnan(value) else repr(value) for value in x[:, i].tolist()]
        for i, name in enumerate("ab")
    }
    return write_csv(folder / "t.csv", values | columns)


@pytest.mark.parametrize("missing", ["em", "drop"])
def test_files_and_streams_fit_as_arrays(holed: Tensor, tmp_path: Path, missing: str) -> None:
    kinds = ["uvw"[i % 3] for i in range(101)]
    path = table(tmp_path, holed, kind=kinds)
    how: dict[str, Any] = {"missing": missing, "standardize": True, "batch_size": 30}
    array = ArrayDataModule(holed, **how)
    # A row of white space alone is none; one with separators is.
    others = (
        ArrayDataModule.file(path, label="kind", **how),
        StreamDataModule(path, label="kind", columns=["a", "b"], val_path=path, **how),
    )
    expected, _ = fitted(array, EMCallback(), passes=5)
    assert array.num_dropped == (0 if missing == "em" else int(holed.isnan().any(1).sum()))
    for data in others:
        made, _ = fitted(data, EMCallback(), passes=5)
        assert data.num_train_rows == array.num_train_rows
        assert data.num_missing == array.num_missing
        torch.testing.assert_close(made.layer.means, expected.layer.means, **CLOSE)
        labels = torch.cat([b.labels for b in data.train_source(labels=True)])  # type: ignore
        assert len(labels) == data.num_train_rows


def test_dropped_rows_take_what_belongs_to_them_along(holed: Tensor) -> None:
    index = torch.arange(101)
    data = ArrayDataModule(holed, missing="drop", labels=index, sample_weight=index + 1)
    kept = (~holed.isnan().any(1)).nonzero().squeeze(-1)
    assert torch.equal(data.train.x, holed[kept])
    assert torch.equal(data.train.labels, kept)
    assert torch.equal(data.train.weight, (kept + 1).double())
    assert data.num_dropped == 101 - len(kept)


def test_pictures_show_rows_that_have_all_entries(holed: Tensor, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    data = ArrayDataModule(holed, missing="em", standardize=True)
    made, _ = fitted(data, EMCallback(), passes=2)
    shown = draw_mixture(made, data, 50).axes[0].collections
    points = np.concatenate([np.asarray(c.get_offsets()) for c in shown])
    assert np.isfinite(points).all()
    none = holed.clone()
    none[torch.arange(101), torch.arange(101) % 2] = torch.nan
    data = ArrayDataModule(none, missing="em")
    made = module()
    logged = trainer(
        InitializeCallback("kmeans"),
        EMCallback(),
        MixtureLogger(),
        logger=TensorBoardLogger(tmp_path),
        max_epochs=2,
    )
    logged.fit(made, data)
    assert torch.isfinite(made.layer.means).all()


# -- errors of measurement -----------------------------------------------------------------------


def test_columns_of_errors_are_those_of_fit_em(holed: Tensor, tmp_path: Path) -> None:
    deviation = torch.linspace(0.1, 2.0, 101)
    variances = torch.stack([deviation.square(), torch.zeros(101)], 1)
    variances = torch.where(holed.isnan(), 0.0, variances)
    path = table(tmp_path, holed, da=[repr(v) for v in deviation.tolist()])
    how: dict[str, Any] = {"missing": "em", "standardize": True, "batch_size": 30}
    named = {"errors": {"a": "da"}}
    listed = {"errors": ["da", None], "columns": ["a", "b"]}
    expected, run = fitted(
        ArrayDataModule(holed, error_covariance=variances, **how), EMCallback(), passes=5
    )
    for data in (
        ArrayDataModule(holed, error_covariance=variances.diag_embed(), **how),
        ArrayDataModule.file(path, **named, **how),
        StreamDataModule(path, **listed, **how),
    ):
        assert data.columns in (("a", "b"), ("x0", "x1"))
        made, _ = fitted(data, EMCallback(), passes=5)
        torch.testing.assert_close(made.layer.means, expected.layer.means, **CLOSE)
        torch.testing.assert_close(made.layer.raw_scale, expected.layer.raw_scale, **CLOSE)
    # In the layer's units the errors are divided by the scales.
    scale = expected.standardize.scale
    layer, z = GMMLayer(2, 2, priors="niw"), expected.standardize(holed)
    rows = Batch(z, extra={"error_covariance": variances / scale.square()})
    start = torch.Generator().manual_seed(3)
    initialize_layer(layer, rows, "kmeans", missing="em", generator=start)
    fit_em(layer, rows, initializer=None, missing="em", max_iter=5, tol=0.0)
    torch.testing.assert_close(expected.layer.means, layer.means, **CLOSE)
    shown = float(run.callback_metrics["train/log_likelihood"])
    whole = expected.log_prob(
        Batch(holed, extra={"error_covariance": variances}), missing="marginalize"
    )
    whole = whole.detach()
    # After the last M-step the likelihood is a little higher than that which was logged.
    assert float(whole.mean()) == pytest.approx(shown, abs=0.02)


def test_errors_are_validated_and_predicted_with(x: Tensor) -> None:
    errors = 0.5 + torch.arange(202.0).reshape(101, 2) / 202
    data = ArrayDataModule(x, error_covariance=errors, standardize=True, val_fraction=0.3)
    made, run = fitted(data, EMCallback(), passes=4)
    assert data.val is not None
    expected = made.log_prob(data.val).detach()
    assert float(run.callback_metrics["val/log_likelihood"]) == pytest.approx(
        float(expected.mean()), rel=1e-12
    )
    mixture = made.distribution()
    noisy = mixture.log_prob(data.val.x, error_covariance=errors_of(data.val))
    torch.testing.assert_close(expected, noisy)
    parts: Any = run.predict(made, data)
    torch.testing.assert_close(parts[0].log_prob, made.log_prob(data.train))


# -- mistakes ------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([[1.0, NAN], [2.0, 3.0]], {}, "missing (NaN or masked) or infinite entries in row(s) 0"),
        ([[1.0, NAN], [2.0, NAN]], {"missing": "em"}, "feature(s) 'x1' are never observed"),
        ([[NAN, NAN], [NAN, NAN]], {"missing": "em"}, "every entry is missing"),
        ([[1.0, NAN], [NAN, 2.0]], {"missing": "drop"}, "missing=drop leaves none"),
        ([[1.0, INF], [NAN, 2.0]], {"missing": "em"}, "infinite entries in row(s) 0"),
        ([[1.0, INF], [NAN, 2.0]], {"missing": "drop"}, "infinite entries in row(s) 0"),
        ([[1.0, 2.0]], {"missing": "mean"}, "unknown missing 'mean'; known are: refuse, drop, em"),
        ([[1.0, 2.0]], {"error_covariance": [[1.0]]}, "error_covariance must hold variances"),
        ([[1.0, 2.0]], {"error_covariance": [[-1.0, 0.0]]}, "error_covariance must be finite"),
        (
            [[1.0, 2.0]],
            {"error_covariance": [[[1.0, 0.0], [1.0, 1.0]]]},
            "symmetric and positive semidefinite; it is not in row(s) 0",
        ),
    ],
)
def test_bad_rows_are_refused(rows: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(GMMError) as caught:
        ArrayDataModule(torch.tensor(rows), **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("a,da\n1,0.1\n2,-3\n", {"errors": ["da"]}, "errors of a must be >= 0, got -3"),
        ("a,da\n1,0.1\n2,\n", {"errors": ["da"], "missing": "em"}, "is missing where a is not"),
        ("a,da\n1,0.1\n2,\n", {"errors": ["da"]}, "missing values, by column of 2 rows: da (1)"),
        ("a,b,da\n1,2,3\n", {"errors": ["da"]}, "for each of the 2 features (a, b), null where"),
        ("a,b,da\n1,2,3\n", {"errors": {"c": "da"}}, "errors gives 'c' a column of errors"),
        ("a,b,da\n1,2,3\n", {"errors": {"a": "dz"}}, "errors names 'dz', which is no column"),
        ("a,b,da\n1,2,3\n", {"errors": [2, None]}, "errors must be names of columns"),
        ("a,b\n1,x\n2,\n3,4\n", {"missing": "em"}, "column b: expected a number, got 'x'"),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, content: str, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    for make in (ArrayDataModule.file, StreamDataModule):
        with pytest.raises(GMMError) as caught:
            list(make(path, **options).train_source().read())
        assert said in str(caught.value)


def test_a_column_that_is_never_observed_in_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n2,\n3,\n")
    data = StreamDataModule(path, columns=["a", "b"], missing="em", standardize=True)
    with pytest.raises(InvalidDataError, match=r"'b' are never observed"):
        fitted(data, EMCallback(), passes=1)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(InvalidArgumentError, match="choose one of them"):
        EMCallback("density", skip_nonfinite=True, missing="em")
    for callback in (EMCallback, StepwiseEMCallback, InitializeCallback):
        with pytest.raises(InvalidArgumentError, match="unknown missing 'drop'"):
            callback(missing="drop")


def test_a_layer_inside_a_model_is_told_by_its_callback(holed: Tensor) -> None:
    import lightning as L

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.density = GMMLayer(2, 2)
            self.other = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.density(batch.x)
            return self.other.square()

        def configure_optimizers(self) -> Any:
            return adam()(self.parameters())

    model = Model()
    start = InitializeCallback("kmeans", target="density", missing="em")
    run = trainer(start, EMCallback("density", missing="em"), max_epochs=3)
    loader: Any = DataLoader([Batch(part) for part in holed.split(40)], batch_size=None)
    run.fit(model, loader)
    alone = GMMLayer(2, 2)
    initialize_layer(alone, holed, "kmeans", missing="em", generator=0)
    fit_em(alone, holed, initializer=None, missing="em", max_iter=3, tol=0.0)
    torch.testing.assert_close(model.density.means, alone.means, **CLOSE)

"""The start of a fit: from the whole training set, once."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from support.lightning_runs import fitted, same, state, trainer
from support.random_layers import INITIALIZERS
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer, fit_em, resolve_priors
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.initializers import Given
from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule, InitializeCallback


def start(
    x: Any, initializer: Any = "kmeans", seed: int = 0, priors: Any = None, **data: Any
) -> GMMModule:
    """A module as it stands before the first batch."""
    module = GMMModule(GMMLayer(2, 3, priors=priors), lambda p: torch.optim.SGD(p, lr=0.0))
    trainer(InitializeCallback(initializer, seed), max_epochs=1).fit(
        module, datamodule=ArrayDataModule(x, **data)
    )
    return module


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_it_is_the_start_of_fit_em(x: Tensor, initializer: str) -> None:
    layer = GMMLayer(2, 3, priors="niw")
    fit_em(
        layer, x, initializer=initializer, max_iter=0, generator=torch.Generator().manual_seed(4)
    )
    module = start(x, initializer, seed=4, priors="niw")
    assert same(state(module.layer), state(layer))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_it_does_not_depend_on_batches(x: Tensor, batch_size: int) -> None:
    x = x[:31]
    reference = start(x, priors="niw")
    for shuffle in (False, True):
        other = start(x, priors="niw", batch_size=batch_size, shuffle=shuffle)
        assert same(state(other), state(reference))


def test_it_does_not_depend_on_the_global_random_state(x: Tensor) -> None:
    torch.manual_seed(1)
    first = start(x, "random")
    torch.manual_seed(2)
    assert same(state(start(x, "random")), state(first))
    assert not same(state(start(x, "random", seed=1)), state(first))


def test_units_and_priors_are_those_of_the_training_rows(x: Tensor) -> None:
    x = 50 * x + 1000
    module = start(x, None, priors="niw", standardize=True, val_fraction=0.3)
    rows = ArrayDataModule(x, val_fraction=0.3).train.x
    units = module.standardize
    torch.testing.assert_close(units.loc, rows.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(units.scale, rows.std(0, correction=0), rtol=1e-13, atol=0)
    prior = module.layer.priors["components"]
    # The prior is that of the training rows in standard units.
    layer = GMMLayer(2, 3, priors="niw", dtype=rows.dtype)
    resolve_priors(layer, units(rows))
    expected = layer.priors["components"]
    torch.testing.assert_close(prior.loc, expected.loc, rtol=0, atol=1e-12)
    torch.testing.assert_close(prior.df, expected.df, rtol=0, atol=0)
    torch.testing.assert_close(prior.scale_matrix, expected.scale_matrix, rtol=0, atol=1e-12)


def test_none_keeps_the_parameters(x: Tensor) -> None:
    layer = GMMLayer(2, 3, priors="niw")
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    module = GMMModule(layer, lambda p: torch.optim.SGD(p, lr=0.0))
    trainer(InitializeCallback(None), max_epochs=1).fit(module, datamodule=ArrayDataModule(x))
    assert same({n: p.detach() for n, p in layer.named_parameters()}, before)
    assert all(prior.resolved for prior in layer.all_priors)


@pytest.mark.parametrize("form", ["labels", "responsibilities", "instance"])
def test_assignments_can_be_given(x: Tensor, form: str) -> None:
    labels = torch.arange(len(x)) % 3
    given: Any = {
        "labels": labels,
        "responsibilities": torch.nn.functional.one_hot(labels, 3).double(),
        "instance": Given(labels),
    }[form]
    layer = start(x, given).layer
    means = torch.stack([x[labels == k].mean(0) for k in range(3)])
    torch.testing.assert_close(layer.means.detach(), means, rtol=0, atol=1e-13)


def test_assignments_of_another_length_are_refused(x: Tensor) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(101,\).*got .*\(100,\)"):
        start(x, torch.zeros(100, dtype=torch.long))


def test_an_unknown_initializer_lists_the_known_ones(x: Tensor) -> None:
    with pytest.raises(InvalidArgumentError, match="unknown initializer 'nope'; known are: given"):
        start(x, "nope")


def test_more_components_than_rows_are_refused(x: Tensor) -> None:
    with pytest.raises(InvalidDataError, match=r"2 rows to fit, .* num_components=3 needs"):
        start(x[:2])


def test_restarts_keep_the_best_start(x: Tensor) -> None:
    def objective(num_restarts: int) -> float:
        module = GMMModule(GMMLayer(2, 3), lambda p: torch.optim.SGD(p, lr=0.0))
        trainer(
            InitializeCallback("random_from_data", num_restarts=num_restarts), max_epochs=1
        ).fit(module, datamodule=ArrayDataModule(x))
        return module.layer.objective(x).item()

    # Ten restarts begin with the two of two, in the same order.
    assert objective(10) >= objective(2)


@pytest.mark.parametrize(
    "options", [{"num_restarts": 0}, {"trial_passes": -1}, {"num_restarts": "ten"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="must be an integer >="):
        InitializeCallback(**options)


def test_it_starts_only_a_gmm_module(x: Tensor) -> None:
    class Other(L.LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

        def configure_optimizers(self) -> None:
            return None

    with pytest.raises(InvalidArgumentError, match="starts a GMMModule, got Other"):
        trainer(InitializeCallback()).fit(Other(), DataLoader(TensorDataset(x)))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.parametrize("as_module", [True, False])
def test_any_data_module_and_any_loader_will_do(x: Tensor, as_module: bool) -> None:
    class Plain(L.LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(x), batch_size=20)

    module = GMMModule(GMMLayer(2, 3, priors="niw"))
    source: Any = Plain() if as_module else Plain().train_dataloader()
    trainer(InitializeCallback(), EMCallback(), max_epochs=2).fit(module, source)
    reference, _ = fitted(x, priors="niw", max_epochs=2)
    # The same sums, in other batches.
    for name, value in state(reference).items():
        torch.testing.assert_close(state(module)[name], value, rtol=1e-11, atol=1e-11)


def test_parameters_are_drawn_in_the_precision_of_the_fit(x: Tensor) -> None:
    torch.set_default_dtype(torch.float32)
    single = start(x, standardize=True)
    torch.set_default_dtype(torch.float64)
    double = start(x, standardize=True)
    assert {value.dtype for value in state(single).values()} == {torch.float64}
    # Not float32 numbers in a wider dtype, but the very same.
    assert same(state(single), state(double))

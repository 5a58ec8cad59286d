"""The module: one objective for both fits, the user's units, and checkpoints that hold no code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from support.covering import covering
from support.lightning_runs import adam, fitted, same, state, trainer
from support.random_layers import FAMILIES, cases, make_priors
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer
from gmm_lightning.errors import (
    CheckpointError,
    InvalidArgumentError,
    InvalidDataError,
    UnresolvedPriorError,
)
from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule, InitializeCallback

PASS = {"train/log_likelihood", "train/objective", "val/log_likelihood", "step", "train/nll"}


def still(parameters: Any) -> torch.optim.Optimizer:
    """An optimizer that moves nothing, so that every batch sees the same parameters."""
    return torch.optim.SGD(parameters, lr=0.0)


class Losses(L.Callback):
    """The loss of every batch, weighted by its rows."""

    def __init__(self) -> None:
        self.total, self.rows = torch.zeros(()), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.total = self.total + outputs["loss"].detach() * len(batch.x)
        self.rows += len(batch.x)


def run(module: GMMModule, data: ArrayDataModule, *callbacks: L.Callback) -> L.Trainer:
    em = [] if module.optimizer else [EMCallback()]
    this = trainer(InitializeCallback(), *em, *callbacks, max_epochs=1)
    this.fit(module, datamodule=data)
    return this


@pytest.mark.parametrize(
    ("batch_size", "priors", "standardize"),
    covering(
        [41, 17, 1],
        [None, "niw", ["dirichlet", "normal", "inverse_wishart"]],
        [False, True],
    ),
)
def test_both_fits_optimise_the_same_number(
    x: Tensor, priors: Any, standardize: bool, batch_size: int
) -> None:
    x = x[:41]

    def data(*, shuffle: bool) -> ArrayDataModule:
        return ArrayDataModule(x, batch_size=batch_size, shuffle=shuffle, standardize=standardize)

    by_gradient = GMMModule(GMMLayer(2, 3, priors=priors), still)
    losses = Losses()
    gradient = run(by_gradient, data(shuffle=True), losses).callback_metrics
    by_em = GMMModule(GMMLayer(2, 3, priors=priors))
    em = run(by_em, data(shuffle=False)).callback_metrics
    # Sums of 41 float64 terms in another order.
    close: dict[str, Any] = {"rtol": 1e-13, "atol": 1e-13}
    for key in ("train/objective", "train/log_likelihood"):
        torch.testing.assert_close(gradient[key], em[key], **close)
    # By hand, in the user's units.
    z = by_gradient.standardize(x)
    units = by_gradient.standardize.log_abs_det
    expected = by_gradient.layer.objective(z).detach() + units
    torch.testing.assert_close(gradient["train/objective"], expected, **close)
    # The losses of an epoch add up to it, the prior counted once.
    assert losses.rows == len(x)
    torch.testing.assert_close(-losses.total / losses.rows + units, expected, **close)


def test_the_gradient_of_an_epoch_is_that_of_the_objective(x: Tensor) -> None:
    module = GMMModule(GMMLayer(2, 3, priors="niw"), still)
    summed: dict[str, Tensor] = {}

    class Gradients(L.Callback):
        def on_before_optimizer_step(
            self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
        ) -> None:
            share = (20 if trainer.fit_loop.batch_idx < 5 else 1) / len(x)
            for name, p in module.layer.named_parameters():
                assert p.grad is not None
                summed[name] = summed.get(name, torch.zeros_like(p)) + share * p.grad

    run(module, ArrayDataModule(x, batch_size=20, shuffle=True), Gradients())
    module.layer.zero_grad()
    (-module.layer.objective(x)).backward()
    for name, p in module.layer.named_parameters():
        torch.testing.assert_close(summed[name], p.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_what_is_logged_and_in_which_units(x: Tensor, fit: str) -> None:
    # Units a thousand times larger cost log(1000) per feature, exactly what is logged.
    options: dict[str, Any] = {"data": {"standardize": True, "val_fraction": 0.2, "batch_size": 20}}
    small = fitted(x, fit, **options)[1].callback_metrics
    large = fitted(1000 * x, fit, **options)[1].callback_metrics
    assert set(small) == PASS
    assert {v.dtype for v in small.values()} == {torch.float64}
    shift = 2 * torch.tensor(1000.0).log()
    for key in ("train/log_likelihood", "train/objective", "val/log_likelihood"):
        torch.testing.assert_close(large[key], small[key] - shift, rtol=1e-10, atol=0)
    torch.testing.assert_close(large["train/nll"], small["train/nll"] + shift, rtol=1e-10, atol=0)
    assert int(small["step"]) == 2


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_validation_counts_rows_not_batches(x: Tensor, fit: str) -> None:
    module, this = fitted(x, fit, data={"val_fraction": 0.3, "batch_size": 7})
    rows = this.datamodule.val.x  # pyright: ignore[reportAttributeAccessIssue]
    expected = module.log_prob(rows).mean().detach()
    torch.testing.assert_close(
        this.callback_metrics["val/log_likelihood"], expected, rtol=1e-13, atol=0
    )


def test_validation_does_not_leak_into_the_training_mean(x: Tensor) -> None:
    data = ArrayDataModule(x, val_fraction=0.3, batch_size=7, shuffle=True)
    module = GMMModule(GMMLayer(2, 3), still)
    logged = run(module, data).callback_metrics["train/log_likelihood"]
    expected = module.log_prob(data.train.x).mean().detach()
    torch.testing.assert_close(logged, expected, rtol=1e-13, atol=0)


def test_an_interrupted_fit_leaves_nothing_in_the_next_mean(x: Tensor) -> None:
    class Stumble(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("stumbled")

    data = ArrayDataModule(x, batch_size=20, shuffle=True)
    module = GMMModule(GMMLayer(2, 3), still)
    with pytest.raises(ValueError, match="stumbled"):
        run(module, data, Stumble())
    again = run(module, data).callback_metrics["train/log_likelihood"]
    fresh = GMMModule(GMMLayer(2, 3), still)
    assert torch.equal(again, run(fresh, data).callback_metrics["train/log_likelihood"])


def test_autocast_does_not_touch_the_loss(x: Tensor) -> None:
    options: dict[str, Any] = {"data": {"val_fraction": 0.3, "batch_size": 20}}
    mixed, this = fitted(x.float() + 100, "sgd", precision="bf16-mixed", **options)
    exact, reference = fitted(x.float() + 100, "sgd", precision="32-true", **options)
    assert same(state(mixed), state(exact))
    for key in ("train/log_likelihood", "val/log_likelihood"):
        assert torch.equal(this.callback_metrics[key], reference.callback_metrics[key])


def test_a_plain_loader_tells_the_number_of_rows(x: Tensor) -> None:
    module = GMMModule(GMMLayer(2, 3, priors="niw"), still)
    module.layer.priors["components"].resolve(*resolved(x))
    loader = DataLoader(TensorDataset(x), batch_size=20)
    this = trainer(max_epochs=1)
    this.fit(module, loader, loader)
    expected = module.layer.objective(x).detach()
    torch.testing.assert_close(
        this.callback_metrics["train/objective"], expected, rtol=1e-13, atol=0
    )


def resolved(x: Tensor) -> tuple[Any, int]:
    """What a prior takes from the data."""
    from gmm_lightning.priors import DataMoments

    return DataMoments(x.mean(0), torch.cov(x.T, correction=0).unsqueeze(0)), 3


class Endless:
    """A loader without a length or a data set."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x.split(20))


def test_a_loader_without_length_needs_a_number_of_rows_for_a_prior(x: Tensor) -> None:
    module = GMMModule(GMMLayer(2, 3, priors="dirichlet"), still)
    with pytest.raises(InvalidDataError, match=r"number of training rows.*num_train_rows"):
        trainer(max_epochs=1).fit(module, Endless(x), Endless(x))


def test_a_prior_that_has_seen_no_data_says_so(x: Tensor) -> None:
    module = GMMModule(GMMLayer(2, 3, priors="niw"), adam())
    with pytest.raises(UnresolvedPriorError, match="niw"):
        trainer(max_epochs=1).fit(module, datamodule=ArrayDataModule(x))


def test_a_loss_that_is_not_finite_is_refused_with_a_reason() -> None:
    x = torch.full((10, 2), 1e200)
    module = GMMModule(GMMLayer(2, 3), adam())
    with pytest.raises(InvalidDataError, match=r"loss is inf in epoch 0, batch 0: standardise"):
        trainer(max_epochs=1).fit(module, datamodule=ArrayDataModule(x))
    with pytest.raises(InvalidDataError, match=r"row\(s\) 1"):
        trainer(max_epochs=1).fit(
            module,
            DataLoader(torch.tensor([[0.0, 0.0], [0.0, torch.nan]]), batch_size=2),
            [torch.zeros(1, 2)],
        )


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_the_wrong_number_of_features_is_refused(x: Tensor, fit: str) -> None:
    em = [EMCallback()] if fit == "em" else []
    words = r"expected (3 features|rows of shape \(N, 3\)), got .*shape \("
    # One feature would broadcast.
    for rows in (x, x[:, :1]):
        for standardize in (True, False):
            data = ArrayDataModule(rows, standardize=standardize)
            module = GMMModule(GMMLayer(3, 3), adam() if fit == "sgd" else None)
            with pytest.raises(InvalidDataError, match=words):
                trainer(InitializeCallback(), *em).fit(module, datamodule=data)
            with pytest.raises(InvalidDataError, match=words):
                trainer(*em).fit(module, datamodule=data)


def test_a_scheduler_is_stepped(x: Tensor) -> None:
    def halve(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    module = GMMModule(GMMLayer(2, 3), adam(0.1), halve)
    this = trainer(InitializeCallback(), max_epochs=3)
    this.fit(module, datamodule=ArrayDataModule(x))
    assert this.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8)


# -- the model in the user's units ------------------------------------------------------------


def test_the_model_speaks_the_users_units(x: Tensor) -> None:
    x = x * torch.tensor([100.0, 0.01]) + 7.0
    module, _ = fitted(x, priors="niw", data={"standardize": True})
    mixture = module.distribution()
    torch.testing.assert_close(module.log_prob(x), mixture.log_prob(x), rtol=1e-11, atol=0)
    torch.testing.assert_close(module(x), module.log_prob(x), rtol=0, atol=0)
    responsibilities = mixture.log_responsibilities(x).exp()
    # Whitening in other units rounds differently: 1e-16 times a squared radius of up to 100.
    torch.testing.assert_close(module.responsibilities(x), responsibilities, rtol=0, atol=1e-12)
    assert torch.equal(module.predict(x), responsibilities.argmax(-1))
    drawn, component = module.sample((2000,), return_component=True)
    assert component.shape == (2000,)
    # The mean of 2000 draws lies within 5 standard errors, but for one in a million seeds.
    error = 5 * x.std(0) / 2000**0.5
    assert bool(((module.sample((2000,)).mean(0) - mixture.mean).abs() < error).all())
    assert bool(((drawn.mean(0) - mixture.mean).abs() < error).all())


# -- checkpoints ------------------------------------------------------------------------------


def saved(x: Tensor, path: Path, **options: Any) -> GMMModule:
    module, this = fitted(x, max_epochs=1, **options)
    this.save_checkpoint(path)
    return module


@pytest.mark.parametrize(("family", "prior"), cases())
def test_a_checkpoint_alone_rebuilds_every_family_and_prior(
    x: Tensor, tmp_path: Path, family: str, prior: str
) -> None:
    path = tmp_path / "model.ckpt"
    module = saved(
        x, path, covariance=family, priors=make_priors(prior), data={"standardize": True}
    )
    loaded = GMMModule.load_from_checkpoint(path)
    assert same(state(loaded), state(module))
    assert loaded.layer.covariance == module.layer.covariance
    assert [repr(p) for p in loaded.layer.all_priors] == [repr(p) for p in module.layer.all_priors]
    assert torch.equal(loaded.log_prob(x), module.log_prob(x))
    assert torch.equal(loaded.layer.log_prior(), module.layer.log_prior())
    assert not loaded.training
    torch.load(path, weights_only=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_keeps_given_values(x: Tensor, tmp_path: Path, family: str) -> None:
    path = tmp_path / "model.ckpt"
    priors = make_priors("dirichlet+niw", given=True)
    saved(x, path, covariance=family, priors=priors)
    loaded = GMMModule.load_from_checkpoint(path)
    assert [p.config() for p in loaded.layer.all_priors] == [p.config() for p in priors]


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_checkpoint_keeps_the_precision(x: Tensor, tmp_path: Path, precision: Any) -> None:
    path = tmp_path / "model.ckpt"
    module, this = fitted(x, max_epochs=1, precision=precision, data={"standardize": True})
    this.save_checkpoint(path)
    torch.set_default_dtype(torch.float32)
    loaded = GMMModule.load_from_checkpoint(path)
    assert loaded.layer.means.dtype == module.layer.means.dtype
    assert same(state(loaded), state(module))


def test_a_checkpoint_of_a_gradient_fit_is_plain_too(x: Tensor, tmp_path: Path) -> None:
    module, this = fitted(x, "sgd", max_epochs=1)
    this.save_checkpoint(tmp_path / "model.ckpt")
    assert torch.load(tmp_path / "model.ckpt", weights_only=True)["optimizer_states"]
    assert same(state(GMMModule.load_from_checkpoint(tmp_path / "model.ckpt")), state(module))


def test_a_layer_can_be_given_to_load_into(x: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    module = saved(x, path)
    layer = GMMLayer(2, 3)
    assert GMMModule.load_from_checkpoint(path, layer=layer).layer is layer
    assert same(state(layer), state(module.layer))
    with pytest.raises(CheckpointError, match="does not fit this model"):
        GMMModule.load_from_checkpoint(path, layer=GMMLayer(2, 4))


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def foreign_files(good: bytes, mark: Path) -> dict[str, bytes]:
    """Files that are not checkpoints of ours."""

    def torch_file(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def zip_file(**members: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(f"archive/{name}", content)
        return buffer.getvalue()

    described = {"gmm_lightning": {"layer": GMMLayer(2, 3).to_config()}}
    unknown = GMMLayer(2, 3).to_config() | {"covariance": {"name": "nope"}}
    legacy = io.BytesIO()
    torch.save(described | {"x": Bomb(mark)}, legacy, _use_new_zipfile_serialization=False)
    return {
        "empty": b"",
        "text": b"epoch: 3\n" * 40,
        "numbers": bytes(range(256)) * 8,
        "zip": zip_file(readme=b"hello"),
        "zip without tensors": zip_file(**{"data.pkl": pickle.dumps({"a": 1})}),
        "zip of garbage": zip_file(**{"data.pkl": bytes(range(256)), "version": b"3"}),
        "pickle": pickle.dumps({"state_dict": {}}),
        "code": pickle.dumps(Bomb(mark)),
        "code in a torch file": torch_file(described | {"x": Bomb(mark)}),
        "code in a legacy torch file": legacy.getvalue(),
        "a whole module": torch_file(nn.Linear(2, 2)),
        "a tensor": torch_file(torch.zeros(3)),
        "another model's checkpoint": torch_file({"state_dict": {}, "epoch": 3}),
        "no description": torch_file({"gmm_lightning": 3, "state_dict": {}}),
        "half a description": torch_file({"gmm_lightning": {"layer": {"num_features": 2}}}),
        "an unknown family": torch_file({"gmm_lightning": {"layer": unknown}, "state_dict": {}}),
        "no parameters": torch_file(described),
        "parameters of another shape": torch_file(described | {"state_dict": {"a": torch.ones(1)}}),
        "parameters that are none": torch_file(described | {"state_dict": [1]}),
        **{f"cut at {p} percent": good[: len(good) * p // 100] for p in (1, 10, 50, 90, 99)},
    }


def test_files_that_are_not_ours_are_refused_and_never_run(x: Tensor, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.ckpt"
    saved(x, path)
    files = foreign_files(path.read_bytes(), mark)
    for name, content in files.items():
        path.write_bytes(content)
        try:
            GMMModule.load_from_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error), name  # noqa: PT017
        else:
            pytest.fail(f"accepted: {name}")
    assert not mark.exists()


def test_the_bomb_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        GMMModule.load_from_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        GMMModule.load_from_checkpoint(tmp_path)


def test_rows_are_not_changed_by_a_fit(x: Tensor) -> None:
    before = x.clone()
    fitted(x, data={"standardize": True})
    fitted(x, "sgd", data={"standardize": True})
    assert torch.equal(x, before)


def test_em_and_an_optimizer_are_one_too_many(x: Tensor) -> None:
    module = GMMModule(GMMLayer(2, 3), adam(0.1))
    with pytest.raises(InvalidArgumentError, match="leave one of them out"):
        trainer(EMCallback()).fit(module, ArrayDataModule(x))
    wrong: Any = "adam"
    with pytest.raises(InvalidArgumentError, match=r"optimizer .* must be a function, got 'adam'"):
        GMMModule(GMMLayer(2, 3), wrong)

"""Stepwise EM as a callback: the plain stream, resumed anywhere, in one process or for a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.lightning_runs import adam, distance, same, state, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.em import StepwiseEM, initialize_layer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    GMMModule,
    InitializeCallback,
    StepwiseEMCallback,
)

SAME_FOLDER = pytest.mark.filterwarnings("ignore:Checkpoint directory")
NO_VALIDATION = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def started(x: Tensor, priors: Any = None) -> GMMLayer:
    """A layer where `InitializeCallback` leaves it."""
    layer = GMMLayer(x.shape[-1], 3, "full", priors)
    initialize_layer(layer, x, generator=torch.Generator().manual_seed(0))
    return layer


def streamed(
    x: Any, *callbacks: L.Callback, max_epochs: int = 3, priors: Any = None, **options: Any
) -> tuple[GMMModule, StepwiseEMCallback, L.Trainer]:
    shuffle, ckpt_path = options.pop("shuffle", False), options.pop("ckpt_path", None)
    data = ArrayDataModule(x, batch_size=20, shuffle=shuffle, **options.pop("data", {}))
    stepwise = StepwiseEMCallback(**options)
    module = GMMModule(GMMLayer(data.num_features, 3, "full", priors))
    run = trainer(InitializeCallback(), stepwise, *callbacks, max_epochs=max_epochs)
    run.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    return module, stepwise, run


@pytest.mark.parametrize("priors", [None, "niw"])
@pytest.mark.parametrize("given", [{}, {"exponent": 0.9, "offset": 5.0}], ids=str)
def test_it_is_the_plain_stream(x: Tensor, priors: Any, given: dict[str, float]) -> None:
    module, callback, run = streamed(x, priors=priors, **given)
    layer = started(x, priors)
    stream = StepwiseEM(layer, num_samples=101 if priors else None, **given)
    for _ in range(3):
        total = 0.0
        for part in x.split(20):
            total += layer(part).sum().item()
            stream.partial_fit(part)
        history = (total + layer.log_prior().item()) / 101
    # The same sums, in the same order.
    assert distance(state(module.layer), state(layer)) < 1e-12
    # The last batch is one row: that is no reason to call components degenerate.
    assert callback.degenerate == []
    assert callback.history[-1] == pytest.approx(history, rel=1e-12)
    assert len(callback.history) == 3
    assert float(run.callback_metrics["train/objective"]) == pytest.approx(history, rel=1e-12)
    assert stream.num_batches == 18


def test_one_batch_a_pass_begins_with_an_em_step(x: Tensor) -> None:
    found = []
    for callback in (StepwiseEMCallback(), EMCallback()):
        module = GMMModule(GMMLayer(2, 3))
        data = ArrayDataModule(x, batch_size=200, shuffle=False)
        trainer(InitializeCallback(), callback, max_epochs=1).fit(module, datamodule=data)
        found.append(state(module.layer))
    assert distance(*found) < 1e-12


@SAME_FOLDER
@pytest.mark.parametrize(("priors", "shuffle"), [(None, True), ("niw", False)])
def test_resumed_anywhere_it_is_the_same_stream(
    x: Tensor, tmp_path: Path, priors: Any, shuffle: bool
) -> None:
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    module, callback, _ = streamed(x, saved, max_epochs=4, priors=priors, shuffle=shuffle)
    for epoch in (0, 2):
        file = tmp_path / f"epoch={epoch}.ckpt"
        again, other, _ = streamed(
            x, saved, max_epochs=4, priors=priors, shuffle=shuffle, ckpt_path=file
        )
        assert same(state(again), state(module)), epoch
        assert other.history == callback.history


@SAME_FOLDER
def test_a_finished_run_that_is_resumed_forgets_nothing(x: Tensor, tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    _, callback, _ = streamed(x, saved, max_epochs=2)
    kept = callback.state_dict()["stream"]
    _, other, _ = streamed(x, saved, max_epochs=2, ckpt_path=tmp_path / "epoch=1.ckpt")
    found = other.state_dict()["stream"]
    assert found["num_batches"] == kept["num_batches"] == 12
    assert torch.equal(found["running"]["counts"], kept["running"]["counts"])


def test_weights_of_rows(x: Tensor) -> None:
    weight = torch.arange(101.0) % 3
    module, _, _ = streamed(x, data={"sample_weight": weight}, max_epochs=1)
    layer = GMMLayer(2, 3)
    generator = torch.Generator().manual_seed(0)
    initialize_layer(layer, x, sample_weight=weight, generator=generator)
    stream = StepwiseEM(layer)
    for part, w in zip(x.split(20), weight.split(20), strict=True):
        stream.partial_fit(part, w)
    assert distance(state(module.layer), state(layer)) < 1e-12


def test_few_passes_come_near_em(generator: torch.Generator) -> None:
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    x = centres[torch.randint(3, (2000,), generator=generator)]
    x = x + torch.randn(2000, 2, generator=generator)
    module, _, _ = streamed(x, shuffle=True, max_epochs=2)
    exact = started(x)
    result = fit_em(exact, x, initializer=None, tol=1e-5)
    assert module.layer.objective(x).item() > float(result.objective) - 1e-2


class Autoencoder(L.LightningModule):
    """A network with a density of its latents."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.density = nn.Linear(2, 2), nn.Linear(2, 2), GMMLayer(2, 3)
        self.latents: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.encoder(batch[0])
        self.latents.append(z.detach())
        return (self.decoder(z) - batch[0]).square().mean() - 0.01 * self.density(z).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(0.01)(self.parameters())


@NO_VALIDATION
def test_a_mixture_inside_somebodys_model(x: Tensor) -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    twin = GMMLayer(2, 3)
    twin.load_state_dict(state(model.density))
    loader = DataLoader(TensorDataset(x), batch_size=20)
    callback = StepwiseEMCallback(target="density")
    trainer(callback, max_epochs=2).fit(model, loader)
    stream = StepwiseEM(twin)
    for latents in model.latents:
        stream.partial_fit(latents)
    assert distance(state(model.density), state(twin)) < 1e-11
    assert len(callback.history) == 2
    assert all(p.requires_grad for p in model.density.parameters())
    with pytest.raises(InvalidArgumentError, match=r"names no GMMLayer.*density"):
        trainer(StepwiseEMCallback(target="nothing")).fit(model, loader)

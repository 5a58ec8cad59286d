"""Callbacks and modules fit the same mixture on every device."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from support.lightning_runs import adam, distance, state, trainer
from support.random_layers import rows
from torch import Tensor, nn

from gmm_lightning import GMMLayer
from gmm_lightning.training import (
    ArrayDataModule,
    CovarianceFloorCallback,
    EMCallback,
    GMMModule,
    InitializeCallback,
    MixtureLogger,
    StepwiseEMCallback,
)

ON_GPU = True
# float64 sums in another order, over a few steps.
ROUNDING = 1e-8


class Coder(L.LightningModule):
    """A network by gradient, the density of its latents by EM."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.density = nn.Linear(2, 2), GMMLayer(2, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.encoder(batch[0])
        return (z - batch[0]).square().mean() - 0.1 * self.density(z).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Lightning asks why there is a loader, even an empty one, and no step."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(0.001)(self.parameters())


def fit(way: str, device: str) -> tuple[Any, L.Trainer, ArrayDataModule]:
    x = rows(101, 2, torch.Generator().manual_seed(1))
    data = ArrayDataModule(x, batch_size=20, standardize=True, test_fraction=0.2)
    torch.manual_seed(3)
    if way.startswith("inside"):
        em = StepwiseEMCallback if "stepwise" in way else EMCallback
        callbacks = [
            InitializeCallback(target="density"),
            em(target="density"),
            CovarianceFloorCallback(target="density"),
        ]
        module: Any = Coder()
    else:
        module = GMMModule(GMMLayer(2, 3, priors="niw"), adam() if way == "sgd" else None)
        em = {"em": [EMCallback()], "stepwise": [StepwiseEMCallback()], "sgd": []}[way]
        callbacks = [InitializeCallback(), *em, MixtureLogger()]
    run = trainer(*callbacks, accelerator="gpu" if device == "cuda" else device)
    run.fit(module, datamodule=data)
    return module, run, data


@pytest.mark.parametrize("way", ["em", "stepwise", "sgd", "inside, em", "inside, stepwise"])
def test_a_fit_is_that_of_the_processor(way: str, device: str) -> None:
    torch.set_default_device("cpu")
    expected, _, _ = fit(way, "cpu")
    module, run, data = fit(way, device)
    assert run.strategy.root_device.type == device
    assert distance(state(module.cpu()), state(expected)) < ROUNDING
    if isinstance(module, GMMModule):
        (logged,) = run.test(module, data, verbose=False)
        assert data.test is not None
        held_out = expected.log_prob(data.test.x).mean().item()
        assert logged["test/log_likelihood"] == pytest.approx(held_out, abs=ROUNDING)
        parts: Any = run.predict(module, data)
        found = torch.cat([part.component for part in parts])
        assert torch.equal(found, expected.predict(data.train.x))

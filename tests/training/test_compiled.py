"""Compiled models: the library's hooks stay outside of their graphs."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from support.lightning_runs import adam, same, state, trainer
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer
from gmm_lightning.training import (
    BaseEMCallback,
    CovarianceFloorCallback,
    EMCallback,
    InitializeCallback,
    StepwiseEMCallback,
    collect_latents,
)

# torch's own, of latents with a history, when it traces a layer that is called with them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


class Coder(L.LightningModule):
    """A network whose step calls the density of its latents."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)
        self.density = GMMLayer(2, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.encoder(batch[0])
        return (self.decoder(z) - batch[0]).square().mean() - 0.1 * self.density(z).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(0.001)(self.parameters())


WAYS: dict[str, list[type[L.Callback]]] = {
    "em": [EMCallback],
    "stepwise": [StepwiseEMCallback],
    "start": [InitializeCallback],
    "start, em": [InitializeCallback, EMCallback],
    "start, stepwise, floor": [InitializeCallback, StepwiseEMCallback, CovarianceFloorCallback],
}


def run(x: Tensor, way: str, compiled: str | None, fits: int = 1) -> tuple[Any, list[float], int]:
    """State, history and number of graphs after fits of four whole batches a pass."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        module: Any = Coder()
    torch.compiler.reset()
    counters.clear()
    if compiled == "layer":
        module.density.compile(backend="eager")
    given = torch.compile(module, backend="eager") if compiled == "model" else module
    loader = DataLoader(TensorDataset(x[:100]), batch_size=25)
    callbacks: Any = [kind(target="density") for kind in WAYS[way]]
    for _ in range(fits):
        trainer(*callbacks, max_epochs=3).fit(given, loader)
    em = next((c for c in callbacks if isinstance(c, BaseEMCallback)), None)
    return state(module), em.history if em else [], counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_layer_is_one_graph(x: Tensor, way: str) -> None:
    plain, history, _ = run(x, way, None)
    found, again, graphs = run(x, way, "layer")
    assert graphs == 1
    assert again == history
    assert same(found, plain)


@pytest.mark.parametrize(
    ("way", "graphs"), [("start", 1), ("em", 3), ("start, stepwise, floor", 3)]
)
def test_a_compiled_model_breaks_at_the_layer_alone(x: Tensor, way: str, graphs: int) -> None:
    plain, history, _ = run(x, way, None)
    found, again, number = run(x, way, "model")
    # Before the call of the layer, the layer, and what follows it.
    assert number == graphs
    assert sum(counters["graph_break"].values()) == (graphs > 1)
    assert again == history
    assert same(found, plain)


@pytest.mark.parametrize("compiled", ["layer", "model"])
def test_a_second_fit_reads_the_rows_too(x: Tensor, compiled: str) -> None:
    plain, history, _ = run(x, "em", None, fits=2)
    found, again, _ = run(x, "em", compiled, fits=2)
    assert len(again) == 3
    assert again == history
    assert same(found, plain)


def test_latents_of_a_compiled_layer(x: Tensor) -> None:
    module = Coder()
    module.density.compile(backend="eager")
    counters.clear()
    z = collect_latents(module, [(x,)], "density")
    assert torch.equal(z, module.encoder(x).detach())
    assert not counters["stats"]["unique_graphs"]

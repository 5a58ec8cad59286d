"""What else Lightning offers: averages, clipping, finders, limits, several fits, Fabric."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.tuner import Tuner
from support.covering import covering
from support.lightning_runs import adam, distance, same, state, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer, e_step, m_step
from gmm_lightning.em import initialize_layer
from gmm_lightning.training import (
    ArrayDataModule,
    BaseEMCallback,
    EMCallback,
    GMMModule,
    InitializeCallback,
    StepwiseEMCallback,
)

# Lightning's advice about a fit without validation, and its own remarks on short fits.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:Swapping scheduler"),
]
WAYS = ["em", "stepwise", "sgd", "inside"]


class Coder(L.LightningModule):
    """A network by gradient, the density of its latents by EM."""

    def __init__(self, lr: float = 0.001) -> None:
        super().__init__()
        self.lr = lr
        self.encoder, self.density = nn.Linear(2, 2), GMMLayer(2, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.encoder(batch[0])
        return (z - batch[0]).square().mean() - 0.1 * self.density(z).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.density(self.encoder(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self.lr)(self.parameters())


def made(way: str) -> tuple[Any, list[L.Callback]]:
    """A model and the callbacks that fit it."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        if way == "inside":
            return Coder(), [InitializeCallback(target="density"), EMCallback(target="density")]
        module = GMMModule(GMMLayer(2, 3), adam(0.05) if way == "sgd" else None)
    em = {"em": [EMCallback()], "stepwise": [StepwiseEMCallback()], "sgd": []}
    return module, [InitializeCallback(), *em[way]]


def data(x: Tensor, way: str = "em", **options: Any) -> ArrayDataModule:
    return ArrayDataModule(x, **{"batch_size": 20, "shuffle": way != "em"} | options)


def run(x: Tensor, way: str, *callbacks: L.Callback, **options: Any) -> tuple[Any, Any, L.Trainer]:
    """Model, EM callback or None, and trainer after a fit."""
    module, own = made(way)
    this = trainer(*own, *callbacks, **{"max_epochs": 4} | options)
    this.fit(module, datamodule=data(x, way))
    return module, next((c for c in own if isinstance(c, BaseEMCallback)), None), this


# -- averages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "average"), [("em", "ema"), ("sgd", "ema"), ("inside", "swa"), ("inside", "ema")]
)
def test_averages_of_the_weights(x: Tensor, way: str, average: str) -> None:
    made: dict[str, Any] = {
        "swa": lambda: StochasticWeightAveraging(0.05, swa_epoch_start=0.5),
        "ema": lambda: EMAWeightAveraging(decay=0.5),
    }
    module, em, _ = run(x, way, made[average](), max_epochs=8)
    plain, other, _ = run(x, way, max_epochs=8)
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
    if em is not None:
        # They only read the mixture while it is trained.
        assert len(em.history) == 8
        assert float(em.counts.sum()) == pytest.approx(len(x))
    if way == "em":
        assert em.history == other.history
        gap = module.log_prob(x).mean() - plain.log_prob(x).mean()
        assert abs(float(gap.detach())) < 0.05
    else:
        assert not same(state(module), state(plain))


def test_calls_of_a_teacher_are_not_the_layers(x: Tensor) -> None:
    class Student(Coder):
        """Copies itself when the callbacks are at work; the copy is called in training mode."""

        def on_train_start(self) -> None:
            self.teacher = [copy.deepcopy(self)]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                self.teacher[0].density(self.teacher[0].encoder(batch[0]))
            return super().training_step(batch, batch_idx)

    module, em = Student(), EMCallback(target="density")
    trainer(em, max_epochs=1).fit(module, data(x, "inside"))
    assert em.counts is not None
    assert float(em.counts.sum()) == pytest.approx(len(x))
    assert not module.density._forward_pre_hooks


# -- steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("em", {"accumulate_grad_batches": 4}),
        ("stepwise", {"accumulate_grad_batches": 4, "detect_anomaly": True}),
        ("stepwise", {"gradient_clip_val": 0.1}),
        ("em", {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
    ],
    ids=str,
)
def test_em_has_no_gradients(x: Tensor, way: str, options: dict[str, Any]) -> None:
    module, em, _ = run(x, way, **options)
    plain, other, _ = run(x, way)
    assert same(state(module), state(plain))
    assert em.history == other.history


def test_gradients_accumulate_to_those_of_all_rows(x: Tensor) -> None:
    def fit(**options: Any) -> GMMModule:
        module, start = made("sgd")
        this = trainer(*start, max_epochs=3, **options)
        this.fit(module, datamodule=data(x[:100], "em", batch_size=options.pop("rows", 25)))
        return module

    module, start = made("sgd")
    trainer(*start, max_epochs=3).fit(module, datamodule=data(x[:100], "em", batch_size=100))
    # The mean of four means of 25 rows, in another order.
    assert distance(state(fit(accumulate_grad_batches=4)), state(module)) < 1e-10


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision_of_em(x: Tensor, precision: Any) -> None:
    torch.set_default_dtype(torch.float32)
    _, em, _ = run(x.float(), "em", precision=precision)
    torch.set_default_dtype(torch.float64)
    _, other, _ = run(x, "em", precision="64-true")
    # float32 rows and parameters; sums are in float64 whatever autocast says.
    assert em.history == pytest.approx(other.history, abs=1e-4)


# -- parts of the data ------------------------------------------------------------------------


# The batches of a pass, and the number of passes.
LIMITS: list[tuple[dict[str, Any], int, int]] = [
    ({"overfit_batches": 2}, 2, 4),
    ({"fast_dev_run": True}, 1, 1),
    ({"fast_dev_run": 3}, 3, 1),
    ({"limit_train_batches": 3}, 3, 4),
    ({"limit_train_batches": 0.5}, 3, 4),
    ({"max_steps": 12}, 6, 2),
]


@pytest.mark.parametrize(("limit", "way"), covering(LIMITS, WAYS, strength=1), ids=str)
def test_limited_fits(x: Tensor, way: str, limit: tuple[dict[str, Any], int, int]) -> None:
    options, batches, passes = limit
    module, em, this = run(x, way, **options)
    assert this.global_step == batches * passes
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
    if em is not None:
        assert len(em.history) == passes
        total = em._pass_weight if way == "stepwise" else float(em.counts.sum())
        assert total == pytest.approx(min(20 * batches, len(x)))


def test_em_of_some_batches_is_em_of_their_rows(x: Tensor) -> None:
    module, _, _ = run(x, "em", limit_train_batches=3, max_epochs=3)
    # The start is that of all rows.
    twin = made("em")[0].layer
    initialize_layer(twin, x, "mixed", generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        m_step(twin, e_step(twin, x[:60]))
    assert distance(state(module.layer), state(twin)) < 1e-11


def test_a_fit_that_ends_in_its_first_pass_says_that_nothing_was_learnt(
    x: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    _, em, _ = run(x, "em", max_steps=5)
    assert not em.history
    (said,) = [r.message for r in caplog.records if "no M-step" in r.message]
    assert "after 5 of the 6 batches of its first pass" in said
    caplog.clear()
    run(x, "em", max_steps=7)
    run(x, "stepwise", max_steps=5)
    assert not [r for r in caplog.records if "no M-step" in r.message]


def test_a_module_that_nobody_trains_says_so(x: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[str]:
        found = [r.message for r in caplog.records if "learnt nothing" in r.message]
        caplog.clear()
        return found

    module = GMMModule(GMMLayer(2, 3))
    trainer(InitializeCallback(), max_epochs=2).fit(module, data(x))
    (words,) = said()
    assert "add EMCallback() to the callbacks" in words
    for way in ("em", "stepwise", "sgd"):
        run(x, way, max_epochs=1)
    assert not said()


# -- finders ----------------------------------------------------------------------------------


def test_a_learning_rate_for_the_network_leaves_the_mixture(x: Tensor, tmp_path: Path) -> None:
    module, own = made("inside")
    before = state(module)
    this = trainer(*own, max_epochs=9, enable_checkpointing=True, default_root_dir=tmp_path)
    found: Any = Tuner(this).lr_find(module, datamodule=data(x, "inside"), num_training=20)
    assert module.lr == found.suggestion() != 0.001
    assert same(state(module), before)
    assert all(p.requires_grad for p in module.parameters())
    this.fit_loop.max_epochs = 2
    this.fit(module, datamodule=data(x, "inside"))
    em: Any = own[1]
    assert len(em.history) == 2


@pytest.mark.parametrize("way", ["em", "inside"])
def test_a_batch_size_is_found(x: Tensor, way: str, tmp_path: Path) -> None:
    module, own = made(way)
    this, rows = (
        trainer(*own, max_epochs=2, enable_checkpointing=True, default_root_dir=tmp_path),
        data(x, way),
    )
    found = Tuner(this).scale_batch_size(
        module, datamodule=rows, init_val=4, max_trials=2, steps_per_trial=1
    )
    assert found == rows.batch_size > 4
    this.fit(module, datamodule=rows)
    em: Any = own[1]
    assert len(em.history) == 2


# -- several fits -----------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "passes"), [("em", 12), ("stepwise", 3), ("inside", 12)])
def test_callbacks_that_are_used_again_start_anew(x: Tensor, way: str, passes: int) -> None:
    # After twelve passes the parameters are an extrapolation, to be taken back if it was none.
    module, own = made(way)
    trainer(*own, max_epochs=passes).fit(module, datamodule=data(x, way))
    others = 5 * x.flip(1) + 100
    found = []
    for callbacks in (own, made(way)[1]):
        again = made(way)[0]
        trainer(*callbacks, max_epochs=2).fit(again, datamodule=data(others, way))
        found.append((state(again), callbacks[1].history))  # pyright: ignore
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert len(found[0][1]) == 2


@pytest.mark.parametrize("way", ["em", "stepwise", "inside"])
def test_the_same_trainer_goes_on(x: Tensor, way: str) -> None:
    module, own = made(way)
    this = trainer(*own, max_epochs=2)
    this.fit(module, datamodule=data(x, way))
    before = state(module)
    this.fit_loop.max_epochs = 4
    this.fit(module, datamodule=data(x, way))
    assert not same(state(module), before)
    whole, _, _ = run(x, way, max_epochs=4)
    assert len(own[1].history) == 4  # pyright: ignore
    if way != "inside":
        # There the optimizer of the network begins anew.
        assert distance(state(module), state(whole)) < 1e-11


# -- Fabric -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric_trains_a_model_with_a_layer(x: Tensor, precision: Any) -> None:
    torch.set_default_dtype(torch.float32)
    x = x.float()
    fabric = L.Fabric(accelerator="cpu", devices=1, precision=precision)
    network = nn.Sequential(nn.Linear(2, 2), GMMLayer(2, 3))
    model, optimizer = fabric.setup(network, adam(0.01)(network.parameters()))
    loader: Any = fabric.setup_dataloaders(DataLoader(TensorDataset(x), batch_size=20))
    losses = []
    for _ in range(5):
        for (rows,) in loader:
            optimizer.zero_grad()
            loss = -model(rows).mean()
            fabric.backward(loss)
            optimizer.step()
            losses.append(loss.item())
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0]
    layer: Any = network[1]
    z = network[0](x).detach()
    before = layer.objective(z)
    m_step(layer, e_step(layer, z[:50]) + e_step(layer, z[50:]))
    assert layer.objective(z) >= before

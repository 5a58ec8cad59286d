"""Schedulers of a `GMMModule`: when they are stepped, and what they watch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from support.lightning_runs import adam, state, trainer
from torch import Tensor
from torch.optim.lr_scheduler import (
    CyclicLR,
    ExponentialLR,
    OneCycleLR,
    ReduceLROnPlateau,
)
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule, InitializeCallback


class Rates(L.Callback):
    """The learning rate before each batch and at the end, and what a scheduler is given."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    on_train_end = on_train_batch_start


def run(
    x: Tensor, scheduler: Any, *, lr: float = 0.1, val: float = 0.2, **options: Any
) -> tuple[GMMModule, L.Trainer, Rates]:
    monitor = options.pop("monitor", None)
    module = GMMModule(GMMLayer(2, 3), adam(lr), scheduler, monitor)
    rates = Rates()
    data = ArrayDataModule(x, batch_size=20, shuffle=True, val_fraction=val)
    this = trainer(InitializeCallback(), rates, **({"max_epochs": 6} | options))
    this.fit(module, datamodule=data)
    return module, this, rates


@pytest.mark.parametrize("val", [0.0, 0.2])
def test_a_plateau_watches_the_validation_set_if_there_is_one(x: Tensor, val: float) -> None:
    _, this, _ = run(x, ReduceLROnPlateau, val=val)
    (config,) = this.lr_scheduler_configs
    name = "val/log_likelihood" if val else "train/objective"
    assert config.monitor == name
    assert config.interval == "epoch"
    # In its mode `min` it has seen the negative.
    best: Any = config.scheduler.best  # pyright: ignore
    assert float(best) <= -float(this.callback_metrics[name]) + 1e-12


def test_a_plateau_lowers_the_rate_where_nothing_is_gained(x: Tensor) -> None:
    absolute = partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold_mode="abs")
    for mode in ("min", "max"):
        gain = partial(absolute, mode=mode, threshold=1e9)
        # The first look is a gain over nothing.
        assert run(x, gain)[2].rates[-1] == pytest.approx(0.1 / 2**5)
    # Where every pass gains, nothing changes, whichever way the scheduler looks.
    slow = {"lr": 1e-4, "val": 0.0}
    for mode in ("min", "max"):
        module, _, rates = run(x, partial(absolute, mode=mode, threshold=-1.0), **slow)
        assert rates.rates[-1] == 1e-4
    assert torch.isfinite(module.layer.means).all()


@pytest.mark.parametrize("every", [2, 3])
def test_a_plateau_looks_when_there_is_something_to_see(x: Tensor, every: int) -> None:
    halving = partial(
        ReduceLROnPlateau, factor=0.5, patience=0, threshold_mode="abs", threshold=1e9
    )
    _, _, rates = run(x, halving, check_val_every_n_epoch=every)
    assert rates.rates[-1] == pytest.approx(0.1 / 2 ** (6 // every - 1))


def test_what_is_watched_can_be_said(x: Tensor) -> None:
    _, this, _ = run(x, ReduceLROnPlateau, monitor="train/log_likelihood")
    assert this.lr_scheduler_configs[0].monitor == "train/log_likelihood"

    def own(optimizer: Any) -> dict[str, Any]:
        return {
            "scheduler": ReduceLROnPlateau(optimizer, "max"),
            "monitor": "train/objective",
            "frequency": 2,
        }

    _, this, _ = run(x, own)
    (config,) = this.lr_scheduler_configs
    assert (config.monitor, config.frequency, config.interval) == ("train/objective", 2, "epoch")


def test_a_plain_loader_for_validation_is_seen(x: Tensor) -> None:
    module = GMMModule(GMMLayer(2, 3), adam(), ReduceLROnPlateau)
    loader = DataLoader(TensorDataset(x), batch_size=20)
    this = trainer(max_epochs=1)
    this.fit(module, loader, loader)
    assert this.lr_scheduler_configs[0].monitor == "val/log_likelihood"


def test_one_cycle_goes_up_and_down_over_the_batches_of_the_fit(x: Tensor) -> None:
    _, this, rates = run(x, partial(OneCycleLR, max_lr=0.5), lr=0.02)
    assert this.lr_scheduler_configs[0].interval == "step"
    # Five batches in each of six passes, and one look at the end.
    assert len(rates.rates) == 31
    assert max(rates.rates) == pytest.approx(0.5, rel=0.01)
    assert rates.rates[0] == pytest.approx(0.5 / 25)
    assert rates.rates[-1] == pytest.approx(0.5 / 25 / 1e4, abs=0.01)
    _, _, half = run(x, partial(OneCycleLR, max_lr=0.5, total_steps=60))
    assert half.rates[-1] > 0.3


def test_cycles_and_decays_have_their_own_pace(x: Tensor) -> None:
    _, this, _ = run(x, partial(CyclicLR, base_lr=0.1, max_lr=0.2, cycle_momentum=False))
    assert this.lr_scheduler_configs[0].interval == "step"
    _, _, rates = run(x, partial(ExponentialLR, gamma=0.5))
    assert rates.rates[-1] == pytest.approx(0.1 / 2**6)


def test_a_fit_without_an_end_has_no_one_cycle(x: Tensor) -> None:
    with pytest.raises(InvalidArgumentError, match="this scheduler cannot be made"):
        run(x, partial(OneCycleLR, max_lr=0.5), max_epochs=-1, max_time={"seconds": 1})


def test_em_takes_no_scheduler_into_account(x: Tensor) -> None:
    made = []
    for scheduler in (None, ReduceLROnPlateau):
        module = GMMModule(GMMLayer(2, 3), None, scheduler)
        trainer(InitializeCallback(), EMCallback()).fit(module, ArrayDataModule(x))
        made.append(state(module))
    assert str(made[0]) == str(made[1])


def test_the_learning_rate_is_found_and_set(x: Tensor, tmp_path: Path) -> None:
    module = GMMModule(GMMLayer(2, 3, priors="niw"), partial(torch.optim.SGD, lr=0.1, momentum=0.5))
    this = trainer(
        InitializeCallback(), max_epochs=9, enable_checkpointing=True, default_root_dir=tmp_path
    )
    data = ArrayDataModule(x, batch_size=20, shuffle=True)
    found: Any = Tuner(this).lr_find(module, datamodule=data, num_training=20)
    assert module.lr == found.suggestion() != 0.1
    this.fit(module, datamodule=data)
    group = this.optimizers[0].param_groups[0]
    assert (group["lr"], group["momentum"]) == (module.lr, 0.5)
    assert GMMModule(GMMLayer(2, 3)).lr is None

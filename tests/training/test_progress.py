"""The bar of a fit."""

from __future__ import annotations

import re
from typing import Any

import lightning as L
import pytest
import torch
from support.lightning_runs import fitted
from torch import Tensor

from gmm_lightning.training import EpochProgress


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """What remains of the bar on a terminal: the last state of its line."""
    return capsys.readouterr().err.replace("\x1b[A", "").split("\r")[-1]


def test_the_bar_counts_passes_and_shows_the_log_likelihood(
    x: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"val_fraction": 0.2}
    _, run = fitted(x, "em", EpochProgress(), max_epochs=4, enable_progress_bar=True, data=data)
    line = shown(capsys)
    assert "4/4" in line
    assert "100%" in line
    for key, label in {
        "train/log_likelihood": "log_likelihood",
        "train/objective": "objective",
        "val/log_likelihood": "val",
    }.items():
        match = re.search(rf"\b{label}=(-?[\d.]+)", line)
        assert match, line
        # Five decimals are shown.
        assert float(match[1]) == pytest.approx(float(run.callback_metrics[key]), abs=5.1e-6)


def test_long_passes_count_their_batches(x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    progress = EpochProgress(min_interval=0.0)
    fitted(x, "em", progress, max_epochs=2, enable_progress_bar=True, data={"batch_size": 20})
    assert "batch 3/6" in capsys.readouterr().err


def test_a_resumed_fit_continues_the_count(
    x: Tensor, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    _, run = fitted(x, max_epochs=2)
    run.save_checkpoint(tmp_path / "a.ckpt")
    capsys.readouterr()
    fitted(
        x,
        "em",
        EpochProgress(),
        max_epochs=5,
        enable_progress_bar=True,
        ckpt_path=tmp_path / "a.ckpt",
    )
    assert "5/5" in shown(capsys)


def test_without_a_bar_nothing_is_written(x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    progress = EpochProgress()
    progress.disable()
    fitted(x, "em", progress, max_epochs=2, enable_progress_bar=True)
    assert "passes" not in capsys.readouterr().err


def test_a_failure_closes_the_bar(x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    class Stumble(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 1:
                raise ValueError("stumbled")

    progress = EpochProgress()
    with pytest.raises(ValueError, match="stumbled"):
        fitted(x, "em", progress, Stumble(), max_epochs=4, enable_progress_bar=True)
    assert capsys.readouterr().err.endswith("\n")


def test_the_bar_does_not_change_the_fit(x: Tensor) -> None:
    with_bar, _ = fitted(x, "sgd", EpochProgress(), enable_progress_bar=True)
    without, _ = fitted(x, "sgd")
    assert torch.equal(with_bar.layer.means, without.layer.means)

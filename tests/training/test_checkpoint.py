"""Checkpoints at the end of a pass: whole files, and a resumed fit that nobody can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from support.lightning_runs import fitted, same, state
from torch import Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import EMCallback, EpochCheckpoint, GMMModule

PASSES = 6


def fit(
    x: Tensor, kind: str, folder: Path, passes: int, resume: Path | None = None, **options: Any
) -> tuple[dict[str, Tensor], L.Trainer]:
    """A fit with everything that has a state: priors, units, validation, early stopping."""
    stopping = EarlyStopping("train/objective", mode="max", min_delta=0.0, patience=50)
    module, run = fitted(
        x,
        kind,
        EpochCheckpoint(folder, every_n_passes=100),
        stopping,
        priors=["dirichlet", "niw"],
        max_epochs=passes,
        data={"standardize": True, "val_fraction": 0.2, "batch_size": 20},
        ckpt_path=resume,
        **options,
    )
    return state(module), run


@pytest.mark.parametrize("kind", ["em", "sgd"])
@pytest.mark.parametrize("passes", [1, 4])
def test_a_resumed_fit_is_the_uninterrupted_one(
    x: Tensor, tmp_path: Path, kind: str, passes: int
) -> None:
    whole, run = fit(x, kind, tmp_path / "whole", PASSES)
    fit(x, kind, tmp_path / "part", passes)
    torch.manual_seed(12345)
    resumed, again = fit(x, kind, tmp_path / "rest", PASSES, tmp_path / "part" / "last.ckpt")
    assert same(whole, resumed)
    assert (again.current_epoch, again.global_step) == (run.current_epoch, run.global_step)
    assert run.callback_metrics.keys() == again.callback_metrics.keys()
    for key, value in run.callback_metrics.items():
        assert torch.equal(value, again.callback_metrics[key]), key
    # So are the files: optimizer, counters, callbacks.
    first = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)
    second = torch.load(tmp_path / "rest" / "last.ckpt", weights_only=True)
    for key in ("epoch", "global_step", "optimizer_states", "gmm_lightning"):
        assert equal(first[key], second[key]), key
    if kind == "em":
        assert isinstance(again.callbacks[1], EMCallback)
        assert len(again.callbacks[1].history) == PASSES


def equal(first: Any, second: Any) -> bool:
    """Nested equality with tensors."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@pytest.mark.parametrize("kind", ["em", "sgd"])
def test_a_chain_of_resumes_is_the_uninterrupted_fit(x: Tensor, tmp_path: Path, kind: str) -> None:
    whole, _ = fit(x, kind, tmp_path / "whole", 4)
    resume = None
    for passes in (1, 2, 3, 4):
        last, _ = fit(x, kind, tmp_path / "chain", passes, resume)
        resume = tmp_path / "chain" / "last.ckpt"
    assert same(whole, last)


@pytest.mark.parametrize("kind", ["em", "sgd"])
def test_resuming_a_finished_fit_changes_nothing(x: Tensor, tmp_path: Path, kind: str) -> None:
    done, _ = fit(x, kind, tmp_path, 3)
    again, run = fit(x, kind, tmp_path, 3, tmp_path / "last.ckpt")
    assert same(done, again)
    assert run.current_epoch == 3


class Files(L.Callback):
    """After which passes the file was written anew."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen, self.written = path, 0.0, []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.note(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.note(trainer)

    def note(self, trainer: L.Trainer) -> None:
        if self.path.exists():
            epoch = torch.load(self.path, weights_only=True)["epoch"] + 1
            if epoch not in self.written:
                self.written.append(epoch)


@pytest.mark.parametrize(
    ("every", "passes", "expected"), [(3, 8, [1, 3, 6, 8]), (1, 3, [1, 2, 3]), (100, 4, [1, 4])]
)
def test_it_writes_when_it_is_due(
    x: Tensor, tmp_path: Path, every: int, passes: int, expected: list[int]
) -> None:
    files = Files(tmp_path / "last.ckpt")
    fitted(x, "em", EpochCheckpoint(tmp_path, every_n_passes=every), files, max_epochs=passes)
    assert files.written == expected
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_it_writes_when_early_stopping_ends_the_fit(x: Tensor, tmp_path: Path) -> None:
    stopping = EarlyStopping("train/objective", mode="max", min_delta=1e-2, patience=1)
    module, run = fitted(
        x, "em", EpochCheckpoint(tmp_path, every_n_passes=100), stopping, max_epochs=99
    )
    assert 1 < run.current_epoch < 99
    assert same(state(GMMModule.load_from_checkpoint(tmp_path / "last.ckpt")), state(module))


def test_it_writes_when_steps_run_out(x: Tensor, tmp_path: Path) -> None:
    module, _ = fitted(x, "em", EpochCheckpoint(tmp_path), max_epochs=99, max_steps=3)
    assert same(state(GMMModule.load_from_checkpoint(tmp_path / "last.ckpt")), state(module))


def test_a_failure_while_writing_keeps_the_last_good_file(
    x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(x, "em", EpochCheckpoint(tmp_path), max_epochs=1)
    good = (tmp_path / "last.ckpt").read_bytes()

    def half(self: L.Trainer, path: Path, **options: Any) -> None:
        path.write_bytes(good[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(L.Trainer, "save_checkpoint", half)
    with pytest.raises(OSError, match="no space left"):
        fitted(x, "em", EpochCheckpoint(tmp_path), max_epochs=1)
    assert (tmp_path / "last.ckpt").read_bytes() == good


def test_a_dry_run_leaves_nothing_behind(x: Tensor, tmp_path: Path) -> None:
    fitted(x, "em", EpochCheckpoint(tmp_path / "checkpoints"), fast_dev_run=True)
    assert not list(tmp_path.iterdir())


def test_an_interval_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="every_n_passes must be an integer >= 1, got 0"):
        EpochCheckpoint(tmp_path, every_n_passes=0)

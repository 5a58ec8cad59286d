"""Frozen parts, bounds, and starts from finished runs, as typed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from gmm_lightning import GMMLayer
from gmm_lightning.app.command import run
from gmm_lightning.app.train import train
from gmm_lightning.training import GMMModule, StoredStart

Compose = Callable[..., DictConfig]
FEW = ("fit.max_iter=3", "fit.tol=0", "callbacks.progress=null", "logger=none", "priors=niw")
START = "callbacks.initialize.initializer.path"
undrawn = pytest.mark.usefixtures("undrawn")


def module_at(folder: Path) -> GMMModule:
    return GMMModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")


def rows_of(folder: Path) -> tuple[str, ...]:
    """The data of the run `trained`, whose file lies two folders above it."""
    path = folder.parent.parent / "things.csv"
    return ("data=file", f"data.path={path}", "data.label=kind", "data.test_fraction=0.2")


@undrawn
@pytest.mark.parametrize("fit", ["em", "sgd", "stepwise_em"])
def test_a_run_goes_on_with_frozen_means(
    composed: Compose, trained: Path, tmp_path: Path, fit: str
) -> None:
    before = module_at(trained)
    few = ["fit.max_iter=3", "callbacks.progress=null", "logger=none", "priors=niw", f"fit={fit}"]
    words = ["init=run", f"{START}={trained}", "freeze=[means]"]
    words.append(f"model.layer.num_components={before.layer.num_components}")
    train(composed(*rows_of(trained), *few, *words))
    after = module_at(tmp_path)
    assert torch.equal(after.layer.means, before.layer.means)
    assert not torch.equal(after.layer.raw_scale, before.layer.raw_scale)
    # In the same units, though the rows have others.
    assert torch.equal(after.standardize.loc, before.standardize.loc)
    assert after.layer.num_free_parameters < before.layer.num_free_parameters


@undrawn
def test_a_folder_of_save_pretrained_is_a_start(
    composed: Compose, trained: Path, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    layer = module_at(trained).layer
    layer.save_pretrained(tmp_path / "saved")
    words = ["init=run", f"{START}={tmp_path / 'saved'}", "freeze=[weights,{means:[0,1]}]"]
    words.append(f"model.layer.num_components={layer.num_components}")
    train(composed(*rows_of(trained), *FEW, *words, "data.standardize=false"))
    after = module_at(tmp_path).layer
    assert torch.equal(after.mixture_logits, layer.mixture_logits)
    assert torch.equal(after.means[:2], layer.means[:2])
    assert not torch.equal(after.means, layer.means)


@undrawn
def test_bounds_hold(composed: Compose, trained: Path, tmp_path: Path) -> None:
    words = ["bounds.variance=[0.05,0.3]", "bounds.weight=[0.1,0.6]", "bounds.mean=[-1,1]"]
    train(composed(*rows_of(trained), *FEW, *words, "model.layer.num_components=3"))
    layer = module_at(tmp_path).layer
    values = torch.linalg.eigvalsh(layer.covariance_matrix.detach().double())
    # What float32 leaves of an eigenvalue.
    assert 0.05 * (1 - 1e-4) < float(values.min()) <= float(values.max()) < 0.3 * (1 + 1e-4)
    weights, means = layer.weights.detach(), layer.means.detach()
    assert 0.1 - 1e-6 < float(weights.min()) <= float(weights.max()) < 0.6 + 1e-6
    assert -1 <= float(means.min()) <= float(means.max()) <= 1


@undrawn
def test_a_run_resumes_without_the_one_that_it_started_from(
    copied: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = module_at(copied).layer.num_components
    folder = tmp_path / "frozen"
    words = ["init=run", f"init.path={copied}", "freeze=[means]", f"hydra.run.dir={folder}"]
    words += [*rows_of(trained), *FEW, f"model.layer.num_components={count}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    run("train")
    means = module_at(copied).layer.means
    shutil.rmtree(copied)
    monkeypatch.setattr(sys, "argv", ["train.py", f"resume={folder}", "fit.max_iter=5"])
    run("train")
    assert torch.equal(module_at(folder).layer.means, means)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("freeze=[means]", "the frozen means have no value yet"),
        ("freeze=[mean]", "unknown part to freeze 'mean'; known are: weights, means"),
        ("freeze={means:[9]}", "numbered 0 to 1, got means=[9]"),
        ("bounds.variance=[2,1]", "must not be above the upper ones"),
        ("bounds.weight=[0.6,1]", "no weights satisfy the bounds"),
        ("bounds.variance=3", "a lower and an upper bound for variance, got 3"),
        ("bounds.colour=[1,2]", "unknown key 'colour' in bounds; known are: weight, mean"),
        ("projections=nope", "unknown option projections=nope; known are: eigenvalue_ratio"),
        ("init=run", "say which finished run to start from"),
        ("init=run init.path=nowhere", "nowhere"),
        ("init=run init.path=things.csv", "things.csv"),
    ],
)
def test_mistakes_are_one_sentence(
    failing: Callable[..., Any], trained: Path, tmp_path: Path, words: str, said: str
) -> None:
    shutil.copy(trained.parent.parent / "things.csv", tmp_path)
    data = ("data=file", "data.path=things.csv", "data.label=kind", "model.layer.num_components=2")
    failure = failing(*data, *FEW, *words.split())
    assert said in failure.message
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_start_of_other_sizes_is_refused(trained: Path) -> None:
    with pytest.raises(Exception, match="and this fit is of 2 components of 9 features"):
        StoredStart(trained).write_to(GMMLayer(9, 2))

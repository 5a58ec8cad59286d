"""Noise from the command line: a run with it, what is said of it, predictions and draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Typed = Callable[..., str]


@pytest.fixture
def typed(tmp_path: Path, saying: Typed) -> Typed:
    """Run a command in the folder of a run that was fitted to `rows.csv`; returns what it says."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 2, generator=generator)
    x[:100] += 6.0
    x[240:] = 30 * torch.rand(60, 2, generator=generator) - 12
    np.savetxt(tmp_path / "rows.csv", x.numpy(), delimiter=",", header="a,b", comments="")
    words = ("data=file", "data.path=rows.csv", "noise=uniform", "noise.weight=0.1")
    words += ("model.layer.num_components=2", "noise.concentration=2", "data.val_fraction=0")
    assert "priors none, noise uniform, EM" in saying("train", *words, "callbacks.progress=null")
    return saying


def read(name: str) -> Any:
    return np.genfromtxt(name, delimiter=",", names=True)


def test_the_run_tells_of_the_noise(typed: Typed, tmp_path: Path) -> None:
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    weight = metrics["noise_weight"]
    assert 0.1 < weight < 0.3
    assert metrics["num_free_parameters"] == 12
    assert f"noise uniform of weight {weight:.4f}" in typed("show")
    assert f"weight {weight:.4f}" in typed("evaluate")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    # The last weight that was shown is the final one, in float32.
    assert events.Scalars("noise_weight/0")[-1].value == pytest.approx(weight, rel=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_predictions_have_a_column_of_noise(typed: Typed) -> None:
    typed("predict", "input=rows.csv", "output=out.csv", "responsibilities=true")
    table = read("out.csv")
    total = table["noise"] + table["responsibility_0"] + table["responsibility_1"]
    # The layer computes in float32.
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    assert ((table["component"] == -1) == (table["noise"] > 0.5)).all()
    assert (table["component"][240:] == -1).mean() > 0.8


def test_draws_include_noise_where_asked(
    typed: Typed, refused: Callable[..., str], tmp_path: Path
) -> None:
    typed("sample", "n=500", "with_noise=true", "output=new.csv", "picture=new.png")
    # Five standard errors about a share of a fifth.
    assert 0.1 < (read("new.csv")["component"] == -1).mean() < 0.3
    assert (tmp_path / "new.png").stat().st_size > 0
    for word in ("component=0", "temperature=2", "quasi=true", "condition={a: 1}"):
        said = refused("sample", "run=run", "with_noise=true", word, "output=other.csv")
        assert f"without {word.partition('=')[0]}" in said
    typed("sample", "n=50", "output=plain.csv")
    assert (read("plain.csv")["component"] >= 0).all()


def test_unknown_noise_is_refused(failing: Any) -> None:
    assert "gaussian, none, uniform" in failing("noise=loud").message

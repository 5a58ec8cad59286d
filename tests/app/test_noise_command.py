"""Noise from the command line: a run with it, what is said of it, and predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.lightning_runs import ROOT, command, script, the_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of rows, and a run that was fitted to it."""
    folder = tmp_path_factory.mktemp("noise")
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 2, generator=generator)
    x[:100] += 6.0
    x[240:] = 30 * torch.rand(60, 2, generator=generator) - 12
    np.savetxt(folder / "rows.csv", x.numpy(), delimiter=",", header="a,b", comments="")
    arguments = ("data=file", "data.path=rows.csv", "noise=uniform", "noise.weight=0.1")
    more = ("model.layer.num_components=2", "noise.concentration=2", "data.val_fraction=0")
    done = command(*arguments, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "priors none, noise uniform, EM" in done.stdout + done.stderr
    return folder


def test_the_run_tells_of_the_noise(folder: Path) -> None:
    metrics = json.loads((the_run(folder) / "metrics.json").read_text())
    assert 0.1 < metrics["noise_weight"] < 0.3
    assert metrics["num_free_parameters"] == 12
    shown = script(str(ROOT / "scripts" / "show.py"), f"run={the_run(folder)}", cwd=folder)
    assert f"noise uniform of weight {metrics['noise_weight']:.4f}" in shown.stdout
    events = [path.name for path in the_run(folder).rglob("events.*")]
    assert events


def test_predictions_have_a_column_of_noise(folder: Path) -> None:
    done = script(
        str(ROOT / "scripts" / "predict.py"),
        *(f"run={the_run(folder)}", "input=rows.csv", "output=out.csv"),
        "responsibilities=true",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    table = np.genfromtxt(folder / "out.csv", delimiter=",", names=True)
    total = table["noise"] + table["responsibility_0"] + table["responsibility_1"]
    # The file has as many digits as a double.
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    assert ((table["component"] == -1) == (table["noise"] > 0.5)).all()
    assert (table["component"][240:] == -1).mean() > 0.8


def test_draws_include_noise_where_asked(folder: Path) -> None:
    draw = (str(ROOT / "scripts" / "sample.py"), f"run={the_run(folder)}", "n=500")
    done = script(*draw, "with_noise=true", "output=new.csv", "picture=new.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    table = np.genfromtxt(folder / "new.csv", delimiter=",", names=True)
    # Five standard errors about a share of a fifth.
    assert 0.1 < (table["component"] == -1).mean() < 0.3
    wrong = script(*draw, "with_noise=true", "component=1", "output=other.csv", cwd=folder)
    assert wrong.returncode == 1
    assert "without component" in wrong.stderr


def test_unknown_noise_is_refused(folder: Path) -> None:
    wrong = command("noise=loud", cwd=folder)
    assert wrong.returncode == 1
    assert "gaussian, none, uniform" in wrong.stderr

"""The event files of a finished run, read back as TensorBoard reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.csv_run import named, things, write_csv
from support.random_layers import collapsing_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from gmm_lightning.app.command import run as run_command
from gmm_lightning.training import GMMModule

# Event files hold float32.
FLOAT32 = 2e-7


def finished(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> EventAccumulator:
    """`gmm-train` on `a.csv` of the folder, and its events."""
    monkeypatch.chdir(folder)
    common = ("data=file", "data.path=a.csv", "hydra.run.dir=run", "callbacks.progress=null")
    monkeypatch.setattr(sys, "argv", ["train.py", *common, *words])
    run_command("train")
    sizes = {"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}
    events = EventAccumulator(str(folder / "run" / "tensorboard"), size_guidance=sizes)
    events.Reload()
    return events


@pytest.fixture
def run(tmp_path: Path) -> Path:
    x, _ = things(150, seed=3)
    write_csv(tmp_path / "a.csv", named(x))
    return tmp_path / "run"


WORDS = ("fit.tol=0", "fit.max_iter=5", "callbacks.mixture.every_n_passes=2", "priors=niw")


def test_everything_that_a_person_compares(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = finished(tmp_path, monkeypatch, *WORDS, "callbacks.mixture.max_points=40")
    metrics = json.loads((run / "metrics.json").read_text())
    # Settings and final numbers, side by side.
    start = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info
    values = {
        name: value.string_value or value.number_value for name, value in start.hparams.items()
    }
    chosen = {"data": "file", "cov": "full", "fit": "em", "init": "mixed", "optimizer": "none"}
    assert chosen.items() <= values.items()
    assert (values["num_components"], values["processes"], values["tol"]) == (3, 1, 0)
    experiment = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    ).experiment
    names = {info.name.tag for info in experiment.metric_infos}
    finals = ("log_likelihood", "val_log_likelihood", "objective", "bic", "aic", "icl")
    assert names == {f"final/{name}" for name in (*finals, "iterations")}
    for name in (*finals, "iterations"):
        (scalar,) = events.Scalars(f"final/{name}")
        assert scalar.value == pytest.approx(metrics[name], rel=FLOAT32), name
    # Pictures and histograms through training and at the end.
    assert [image.step for image in events.Images("mixture")] == [0, 2, 4, 5]
    histograms = events.Histograms("responsibility_entropy")
    assert [h.step for h in histograms] == [0, 2, 4, 5]
    module = GMMModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    # 135 training rows, of which at most 40 evenly spaced ones are shown.
    last = histograms[-1].histogram_value
    assert 30 <= last.num <= 40
    assert last.min >= 0
    assert last.max <= np.log(3) * (1 + 1e-9)
    condition = torch.linalg.cond(module.layer.covariance_matrix).tolist()
    logged = [events.Scalars(f"condition_number/{k}") for k in range(3)]
    assert [[e.step for e in series] for series in logged] == [[0, 1, 2, 3, 4]] * 3
    assert [series[-1].value for series in logged] == pytest.approx(condition, rel=1e-6)
    # Nothing was repaired, so nothing is told.
    assert not [t for t in events.Tags()["tensors"] if "repaired" in t]
    assert_projector(run, module, last.num)


def assert_projector(run: Path, module: GMMModule, num_rows: float) -> None:
    """The rows in standard units with their components, as the projector reads them."""
    folder = run / "tensorboard"
    text = (folder / "projector_config.pbtxt").read_text()
    (tensors,) = folder.rglob("tensors.tsv")
    (labels,) = folder.rglob("metadata.tsv")
    assert str(tensors.relative_to(folder)) in text
    assert str(labels.relative_to(folder)) in text
    rows = torch.from_numpy(np.loadtxt(tensors, ndmin=2))
    written = [int(line) for line in labels.read_text().split()]
    assert rows.shape == (num_rows, 3)
    assert len(written) == len(rows)
    with torch.no_grad():
        # float32 in decimals: no row of these lies within 1e-6 of a border.
        assert module.layer.predict(rows.to(module.layer.means)).tolist() == written
    assert len(set(written)) == 3


def test_repairs_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = collapsing_rows().tolist()
    write_csv(tmp_path / "a.csv", {f"c{j}": [row[j] for row in rows] for j in range(5)})
    few = ("fit.tol=0", "fit.max_iter=4", "data.val_fraction=0", "data.standardize=false")
    start = ("init=random_from_data", "model.layer.num_components=3")
    events = finished(tmp_path, monkeypatch, *few, *start)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["repaired"]
    told = events.Tensors("repaired components/text_summary")
    texts = [e.tensor_proto.string_val[0].decode() for e in told]
    assert texts == metrics["repaired"]
    assert len(set(zip([e.step for e in told], texts, strict=True))) == len(told)


@pytest.mark.parametrize("features", [1, 2])
def test_few_features(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: int
) -> None:
    names = ["mass", "temp"][:features]
    events = finished(tmp_path, monkeypatch, *WORDS, f"data.columns=[{','.join(names)}]")
    assert len(events.Images("mixture")) == 4
    # One feature is no space to look around in.
    assert bool(list(run.rglob("tensors.tsv"))) == (features == 2)

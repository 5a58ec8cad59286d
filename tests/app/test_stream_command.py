"""`data=stream` and `data.weight`: every command on rows that are not held, or that weigh."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from support.csv_run import named, things, write_csv
from support.lightning_runs import HANG, ROOT, command, distance, the_run

from gmm_lightning.app import evaluation
from gmm_lightning.app.evaluation import LogDensitySample, evaluate_rows
from gmm_lightning.app.train import train
from gmm_lightning.training import ArrayDataModule, GMMModule

Compose = Callable[..., DictConfig]
SHORT = ("fit.max_iter=4", "fit.tol=0", "logger=none", "callbacks.progress=null")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A csv file with labels and weights, the same as shards, and others to judge."""
    x, kind = things(300, seed=0)
    columns = named(x) | {"kind": kind, "count": [i % 3 for i in range(300)]}
    write_csv(tmp_path / "things.csv", columns)
    repeated = np.repeat(np.arange(300), np.arange(300) % 3)
    write_csv(tmp_path / "repeated.csv", named(x[repeated]) | {"kind": [kind[i] for i in repeated]})
    (tmp_path / "shards").mkdir()
    for i, part in enumerate(np.array_split(x, 4)):
        np.save(tmp_path / "shards" / f"{i}.npy", part)
    return tmp_path


def test_a_stream_trains_as_the_file_does(composed: Compose, files: Path) -> None:
    given = (f"data.path={files / 'things.csv'}", "data.label=kind", "data.columns=[mass,temp]")
    val = f"data.val_path={files / 'things.csv'}"
    held = train(composed("data=file", *given, val, *SHORT))
    state = GMMModule.load_from_checkpoint(files / "checkpoints" / "last.ckpt").state_dict()
    density = (files / "density.json").read_text()
    streamed = train(composed("data=stream", *given, val, *SHORT))
    again = GMMModule.load_from_checkpoint(files / "checkpoints" / "last.ckpt").state_dict()
    assert distance(state, again) < 1e-12
    timed = ("seconds", "rows_per_second")
    assert {k: v for k, v in held.items() if k not in timed} == {
        k: pytest.approx(v, rel=1e-12) for k, v in streamed.items() if k not in timed
    }
    assert density == (files / "density.json").read_text()
    assert (files / "mixture.png").is_file()


@pytest.mark.parametrize("source", ["file", "stream"])
def test_a_weight_is_so_many_rows(composed: Compose, files: Path, source: str) -> None:
    start = ("init=none", "priors=niw", "seed=3", "data.columns=[mass,width,temp]")
    none = ("data.val_fraction=0",) if source == "file" else ()
    common = (f"data={source}", "data.label=kind", *start, *none, *SHORT)
    weighted = train(composed(*common, f"data.path={files / 'things.csv'}", "data.weight=count"))
    repeated = train(composed(*common, f"data.path={files / 'repeated.csv'}"))
    assert (weighted["num_rows"], weighted["total_weight"], repeated["num_rows"]) == (300, 300, 300)
    for key in ("log_likelihood", "standard_error", "objective", "bic", "aic", "icl"):
        assert weighted[key] == pytest.approx(repeated[key], rel=1e-9), key
    for key in ("adjusted_rand_score", "normalized_mutual_info_score"):
        assert weighted[key] == pytest.approx(repeated[key], rel=1e-9), key


@pytest.mark.slow
def test_every_command_on_a_stream(files: Path) -> None:
    done = command("data=stream", "data.path=shards", "data.batch_size=64", *SHORT, cwd=files)
    assert done.returncode == 0, done.stderr
    run = the_run(files)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_rows"] == 300
    for name, *arguments in (
        ("evaluate", f"run={run}", "output=own.json"),
        ("evaluate", f"run={run}", "output=other.json", "data=stream", "data.path=shards/*.npy"),
        ("predict", f"run={run}", "input=shards/0.npy", "output=labels.csv"),
        ("show", f"run={run}"),
        ("sample", f"run={run}", "n=5", "output=new.csv"),
    ):
        script = str(ROOT / "scripts" / f"{name}.py")
        made = subprocess.run(
            [sys.executable, script, *arguments],
            cwd=files,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
        assert made.returncode == 0, made.stderr
    own, other = (json.loads((files / f"{name}.json").read_text()) for name in ("own", "other"))
    # Other rows than those of the fit say nothing of degenerate components.
    assert own["train"].pop("degenerate_components") == []
    assert own["train"] == other["data"]
    assert own["train"]["log_likelihood"] == metrics["log_likelihood"]
    assert len((files / "labels.csv").read_text().splitlines()) == 76


@pytest.mark.slow
def test_gradient_descent_on_a_stream_is_judged_afterwards(files: Path) -> None:
    few = ("fit.max_iter=2", "fit.batch_size=50", "logger=none")
    done = command("data=stream", "data.path=shards", "fit=sgd", *few, cwd=files)
    assert done.returncode == 0, done.stderr
    from gmm_lightning.app.runs import load_run

    data = load_run(str(the_run(files))).training_data()
    assert (data.num_train_rows, data.batch_size) == (300, 50)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected the path of a file or a folder to read; on the command line: data=stream"),
        (("data.path=none.npy",), "there is no file none.npy"),
        (("data.path=empty",), "the folder empty holds no file that ends in .csv"),
        (("data.path=my.csv", "data.weight=c"), "there is no weight column 'c'"),
        (("data.path=my.csv", "data.val_fraction=0.1"), "unknown key 'val_fraction' in data"),
        (("data.path=my.csv",), "my.csv: line 3, column b: expected a number, got 'x'"),
        (
            ("data.path=my.csv", "data.columns=[a]", "data.weight=w"),
            "my.csv: w (rows counted from 0) must be finite and >= 0",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    failing: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "my.csv").write_text("a,b,w\n1,2,1\n3,x,-1\n4,5,1\n6,7,1\n")
    (tmp_path / "empty").mkdir()
    failure = failing("data=stream", *arguments)
    assert failure.code == 1
    assert said in failure.message


# -- what the report is made of --------------------------------------------------------------------


def test_quantiles_of_weighted_rows_are_those_of_repeated_ones() -> None:
    values = torch.randn(50, dtype=torch.float64)
    weight = torch.arange(50, dtype=torch.float64) % 3
    probability = torch.tensor([0.001, 0.3, 0.5, 0.99], dtype=torch.float64)
    found = LogDensitySample(values, weight).quantiles(probability)
    repeated = values.repeat_interleave(weight.long()).numpy()
    expected = np.quantile(repeated, probability.numpy(), method="inverted_cdf")
    assert found.tolist() == expected.tolist()
    plain = LogDensitySample(values, None).quantiles(probability).numpy()
    assert plain == pytest.approx(np.quantile(values.numpy(), probability.numpy()), rel=1e-12)


def test_many_rows_are_judged_by_evenly_spaced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)
    x = torch.randn(1000, 2)
    from gmm_lightning import GMMLayer

    module, data = GMMModule(GMMLayer(2, 3)), ArrayDataModule(x)
    part = data.part("train")
    assert part is not None
    numbers, density = evaluate_rows(module, part)
    monkeypatch.setattr(evaluation, "_MAX_KEPT", 300)
    monkeypatch.setattr(evaluation, "_BLOCK", 7)
    again, fewer = evaluate_rows(module, part)
    assert again == {key: pytest.approx(value, rel=1e-12) for key, value in numbers.items()}
    torch.testing.assert_close(fewer.values, density.values[::4], rtol=1e-14, atol=0)


# -- larger than memory ----------------------------------------------------------------------------

GIGABYTES, WIDTH = 3, 16


@pytest.mark.slow
def test_three_gigabytes_are_fitted_within_one(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 4 << 30:
        pytest.skip("needs 4 GB of disk")
    path, n = tmp_path / "big.npy", (GIGABYTES << 30) // (4 * WIDTH)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (n, WIDTH))
    source = np.random.default_rng(0)
    centres = source.normal(size=(8, WIDTH)).astype(np.float32) * 4
    for low in range(0, n, 1 << 20):
        rows = array[low : low + (1 << 20)]
        rows[:] = centres[source.integers(8, size=len(rows))]
        rows += source.standard_normal(rows.shape, dtype=np.float32)
    del array, rows
    fewest = ("cov=diag", "model.layer.num_components=8", "fit.max_iter=2", "init=kmeans")
    given = (
        "data=stream",
        f"data.path={path}",
        *fewest,
        "logger=none",
        "trainer.precision=32-true",
    )
    peak = 0
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "train.py"), *given],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
        while process.poll() is None:
            peak = max(peak, held_privately(process.pid))
            time.sleep(0.05)
    path.unlink()
    assert process.returncode == 0, (tmp_path / "log.txt").read_text()
    print(f"peak of private memory: {peak / 2**20:.0f} MB")
    metrics = json.loads((the_run(tmp_path) / "metrics.json").read_text())
    assert metrics["num_rows"] == n
    assert math.isfinite(metrics["log_likelihood"])
    assert 0 < peak < 1 << 30


def held_privately(pid: int) -> int:
    """Bytes of a process that are no pages of files (RssAnon)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")]
    return found[0] if found else 0

"""Processes that torchrun starts: one run folder, and the mixture of a single process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.lightning_runs import ROOT, command, distance, script, the_run

from gmm_lightning.training import GMMModule

WORDS = ("data=penguins", "priors=niw", "fit.max_iter=4", "fit.tol=0", "callbacks.progress=null")
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.mark.slow
def test_torchrun_ends_where_one_process_does(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "one":
            done = command(*WORDS, cwd=folder)
        else:
            train = str(ROOT / "scripts" / "train.py")
            done = script(*LAUNCH, train, *WORDS, "trainer=ddp", cwd=folder)
        assert done.returncode == 0, done.stderr
        text = done.stdout + done.stderr
        assert text.count("checkpoint, metrics and picture") == 1
        assert f"EM on {1 if name == 'one' else 2} process(es)" in text
        # One run folder, and nothing of the second process beside it.
        assert [path.name for path in folder.iterdir()] == ["outputs"]
        runs.append(the_run(folder))
        assert sorted(p.name for p in runs[-1].iterdir()) == [
            ".hydra",
            "checkpoints",
            "density.json",
            "metrics.json",
            "mixture.png",
            "tensorboard",
            "train.log",
        ]
        # events.out.tfevents.<time>.<host>.<process>.<count>: one process writes.
        files = (runs[-1] / "tensorboard").glob("events*")
        assert len({path.name.split(".")[-2] for path in files}) == 1
    first, second = (
        GMMModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt").state_dict()
        for run in runs
    )
    # Sums over two shards round in another order; four passes carry that on.
    assert distance(first, second) < 1e-9
    one, two = (json.loads((run / "metrics.json").read_text()) for run in runs)
    assert abs(one["objective"] - two["objective"]) < 1e-9
    assert one["iterations"] == two["iterations"] == 4


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_one_sentence(tmp_path: Path) -> None:
    train = str(ROOT / "scripts" / "train.py")
    done = script(*LAUNCH, train, *WORDS, "trainer=ddp", "fit.tol=-1", cwd=tmp_path)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("gmm-train: ")]
    assert set(said) == {"gmm-train: fit.tol must be a finite number >= 0, got -1"}

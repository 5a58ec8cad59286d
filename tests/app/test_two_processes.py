"""The command of the README on one process and on two: the same mixture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.lightning_runs import command, distance, the_run

from gmm_lightning.app.command import run as run_command
from gmm_lightning.training import GMMModule

RUN = ("cov=full", "priors=niw", "data=penguins", "fit.max_iter=5", "fit.tol=0")


def test_two_processes_end_where_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The second process is started by a command line that names the folder.
    one, two = tmp_path / "one", tmp_path / "it's = 2,\n$x {y} [z] \\' é#"
    one.mkdir()
    two.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(one)
        patch.setattr(sys, "argv", ["train.py", *RUN])
        run_command("train")
    said = ["".join(capfd.readouterr())]
    done = command(*RUN, "trainer.devices=2", cwd=two)
    assert done.returncode == 0, done.stderr
    said.append(done.stdout + done.stderr)
    for devices, text in enumerate(said, start=1):
        # What both processes have to say, one says.
        assert text.count("checkpoint, metrics and picture") == 1
        assert f"EM on {devices} process(es)" in text
    runs = [the_run(one), the_run(two)]
    first, second = (
        GMMModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt").state_dict()
        for run in runs
    )
    # Sums over two shards round in another order; five passes carry that on.
    assert distance(first, second) < 1e-9
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert metrics[0]["iterations"] == metrics[1]["iterations"] == 5
    assert abs(metrics[0]["objective"] - metrics[1]["objective"]) < 1e-9
    for run in runs:
        assert (run / "mixture.png").is_file()
        # events.out.tfevents.<time>.<host>.<process>.<count>: one process writes.
        writers = {path.name.split(".")[-2] for path in (run / "tensorboard").glob("events*")}
        assert len(writers) == 1

"""The command of the README on one process and on two: the same mixture."""

from __future__ import annotations

import json
from pathlib import Path

from trainers import command, distance, the_run

from gmm_lightning.training import GMMModule

RUN = ("cov=full", "priors=niw", "data=penguins", "fit.max_iter=5", "fit.tol=0")


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    runs = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        done = command(*RUN, f"trainer.devices={devices}", cwd=folder)
        assert done.returncode == 0, done.stderr
        # What both processes have to say, one says.
        assert (done.stdout + done.stderr).count("checkpoint, metrics and picture") == 1
        assert f"EM on {devices} process(es)" in done.stdout + done.stderr
        runs.append(the_run(folder))
    first, second = (
        GMMModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt").state_dict()
        for run in runs
    )
    # Sums over two shards round in another order; five passes carry that on.
    assert distance(first, second) < 1e-9
    one, two = (json.loads((run / "metrics.json").read_text()) for run in runs)
    assert one["iterations"] == two["iterations"] == 5
    assert abs(one["objective"] - two["objective"]) < 1e-9
    for run in runs:
        assert (run / "mixture.png").is_file()
        # events.out.tfevents.<time>.<host>.<process>.<count>: one process writes.
        writers = {path.name.split(".")[-2] for path in (run / "tensorboard").glob("events*")}
        assert len(writers) == 1

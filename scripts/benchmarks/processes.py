"""Two processes with one thread each, against one process with two threads."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, rows
from benchmarks.report import Report, times
from benchmarks.settings import Settings

SETUPS = ((1, 2), (2, 1))


def run(settings: Settings, report: Report) -> None:
    """Fits with a Lightning `Trainer`, each command in a process of its own."""
    shape = settings.pick((100_000, 32, 32), (50_000, 16, 16), (1_000, 4, 3))
    passes = settings.pick(8, 6, 2)
    runs = settings.times(3, 1)
    found: dict[tuple[int, int], list[dict[str, Any]]] = {setup: [] for setup in SETUPS}
    states: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for setup in SETUPS:
                devices, threads = setup
                out = Path(folder, f"{devices}.pt")
                begun = time.perf_counter()
                machine.child("processes", devices, threads, *shape, passes, out, threads=threads)
                whole = time.perf_counter() - begun
                told = json.loads(out.with_suffix(".json").read_text())
                found[setup].append({"command": whole, **told})
                states[setup] = torch.load(out, weights_only=True)
    n, d, k = shape
    table = report.table(
        f"Processes, N = {n:,}, D = {d}, K = {k}, full, float64, with EMCallback (wall seconds)",
        *("processes", "threads of each", "seconds per pass", "whole command"),
        *("time against one process", "largest difference"),
    )
    one = states[SETUPS[0]]
    first = middle([item["per_pass"] for item in found[SETUPS[0]]])
    for setup in SETUPS:
        per_pass = middle([item["per_pass"] for item in found[setup]])
        apart = max(float((states[setup][name] - value).abs().max()) for name, value in one.items())
        table.row(
            *(*setup, per_pass, middle([item["command"] for item in found[setup]])),
            *(times(per_pass / first), apart),
            runs=found[setup],
            difference=apart,
        )
        if setup != SETUPS[0]:
            report.bar("processes", "two with one thread against one with two", first / per_pass)
    table.note(
        "A pass is timed from the start of an epoch to that of the next, the first one left out; "
        "the whole command loads the libraries, too. The difference is between parameters."
    )


def middle(values: list[float]) -> float:
    """The median."""
    return sorted(values)[len(values) // 2]


# -- in the child ---------------------------------------------------------------------------


def main(devices: int, threads: int, n: int, d: int, k: int, passes: int, out: Path) -> None:
    """Fit, and let the first process write times and parameters."""
    import lightning as L

    from benchmarks import peers
    from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule

    peers.quiet()
    data = rows.clusters(n, d, k)
    module = GMMModule(rows.start("full", data))
    marks: list[float] = []

    class Clock(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            torch.set_num_threads(threads)
            marks.append(time.perf_counter())

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            marks.append(time.perf_counter())

    options: dict[str, Any] = {}
    if devices > 1:
        from lightning.pytorch.strategies import DDPStrategy

        options["strategy"] = DDPStrategy(process_group_backend="gloo")
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        precision="64-true",
        max_epochs=passes,
        callbacks=[EMCallback(), Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, datamodule=ArrayDataModule(data.x))
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        torch.save({name: p.detach() for name, p in module.layer.named_parameters()}, out)
        gaps = [after - before for before, after in pairwise(marks)]
        told = {"per_pass": middle(gaps[1:] or gaps), "gaps": gaps}
        out.with_suffix(".json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:7]), out=Path(sys.argv[7]))

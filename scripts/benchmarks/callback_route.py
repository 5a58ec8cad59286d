"""What Lightning costs: the callback route against the two steps over the same slices."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, Timing, interleaved
from benchmarks.report import Report
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, e_step, m_step

BARE, INSIDE, ROUTE = "bare e_step and m_step", "inside fit_em", "EMCallback"


def run(settings: Settings, report: Report) -> None:
    """Time per pass and per batch."""
    batch, batches = settings.pick((65_536, 16), (65_536, 4), (256, 4))
    d, k = settings.pick((16, 16), (16, 16), (4, 3))
    passes = settings.pick(6, 4, 3)
    data = rows.clusters(batch * batches, d, k)
    table = report.table(
        f"The callback route, {batches} batches of {batch:,} rows, D = {d}, K = {k}, full "
        "(CPU seconds, one thread, medians of passes)",
        *("dtype", "route", "seconds per pass", "overhead", "per batch, milliseconds"),
        "largest difference",
    )
    start = rows.start("full", data)
    for dtype in rows.DTYPES:
        x = data.rows(dtype)
        made = [
            Contender(BARE, lambda x=x, dtype=dtype: bare(start, x, dtype, batch, passes)),
            Contender(INSIDE, lambda x=x, dtype=dtype: inside(start, x, dtype, passes)),
            Contender(ROUTE, lambda x=x, dtype=dtype: route(start, x, dtype, batch, passes)),
        ]
        with threads(1):
            timings = interleaved(made, settings.times(3, 1))
        taken = {name: per_pass(timing) for name, timing in timings.items()}
        layers: dict[str, GMMLayer] = {name: t.value[1] for name, t in timings.items()}
        expected = rows.parameters(layers[BARE])
        for name, seconds in taken.items():
            extra = seconds - taken[BARE]
            own = rows.parameters(layers[name])
            own = {key: value.reshape(expected[key].shape) for key, value in own.items()}
            apart = rows.largest_difference(layers[BARE], own)
            table.row(
                *(
                    dtype,
                    name,
                    seconds,
                    f"{extra / taken[BARE]:+.1%}",
                    1e3 * extra / batches,
                    apart,
                ),
                seconds=timings[name].value[0],
                overhead=extra / taken[BARE],
                difference=apart,
            )
    table.note(
        "Time per batch is what a route takes beyond the bare steps. First passes are left out."
    )


def per_pass(timing: Timing) -> float:
    """The median over the passes of the last run, the first one left out."""
    seconds = sorted(timing.value[0][1:])
    return seconds[len(seconds) // 2]


def bare(
    start: GMMLayer, x: torch.Tensor, dtype: str, batch: int, passes: int
) -> tuple[list[float], GMMLayer]:
    """`e_step` over slices, `+`, `m_step`."""
    layer, spent = rows.in_dtype(start, dtype), []
    for _ in range(passes):
        begun = time.process_time()
        parts = (e_step(layer, part) for part in x.split(batch))
        total = next(parts)
        for part in parts:
            total = total + part
        m_step(layer, total)
        spent.append(time.process_time() - begun)
    return spent, layer


def inside(
    start: GMMLayer, x: torch.Tensor, dtype: str, passes: int
) -> tuple[list[float], GMMLayer]:
    """As `fit_em` goes over rows in memory."""
    steps, spent = rows.FitSteps(rows.in_dtype(start, dtype), x), []
    for _ in range(passes):
        begun = time.process_time()
        steps.iterate()
        spent.append(time.process_time() - begun)
    return spent, steps.fitted()


def route(
    start: GMMLayer, x: torch.Tensor, dtype: str, batch: int, passes: int
) -> tuple[list[float], GMMLayer]:
    """A `Trainer` with `EMCallback`, as the commands do it."""
    import lightning as L

    from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule

    marks: list[float] = []

    class Clock(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            marks.append(time.process_time())

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            marks.append(time.process_time())

    module = GMMModule(rows.in_dtype(start, dtype))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true" if dtype == "float64" else "32-true",
        max_epochs=passes,
        callbacks=[EMCallback(), Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=ArrayDataModule(x, batch_size=batch))
    spent = [after - before for before, after in pairwise(marks)]
    return spent, module.layer

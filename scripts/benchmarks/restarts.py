"""Sixteen starts side by side, against one after the other."""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import EMResult, GMMLayer, fit_em

LOOP, TOGETHER, PRUNED = "one after the other", "side by side", "side by side, pruned"


def run(settings: Settings, report: Report) -> None:
    """With pruning, without it, and as a loop."""
    n, d, k = settings.pick((100_000, 32, 32), (10_000, 16, 16), (400, 4, 3))
    number, max_iter = settings.pick((16, 30), (16, 30), (3, 20))
    data, few = rows.clusters(n, d, k), rows.clusters(max(200, 8 * k * d), d, k)
    table = report.table(
        f"{number} starts, N = {n:,}, D = {d}, K = {k}, full, tolerance 0.001, at most {max_iter} "
        "iterations (CPU seconds, one thread)",
        *("dtype", "how", "seconds", "against one fit", "best objective", "passes of the best"),
    )
    dtypes = settings.pick(["float32"], ["float32", "float64"], ["float32", "float64"])
    for dtype in dtypes:
        x = data.rows(dtype)
        ways = {
            LOOP: partial(loop, k=k, number=number, max_iter=max_iter),
            TOGETHER: partial(together, k=k, number=number, max_iter=max_iter, prune=False),
            PRUNED: partial(together, k=k, number=number, max_iter=max_iter, prune=True),
        }
        made = [
            Contender(name, partial(way, x), warm=partial(way, few.rows(dtype)))
            for name, way in ways.items()
        ]
        with threads(1):
            timings = interleaved(made, settings.times(1, 1))
        one = timings[LOOP].median / number
        for name, timing in timings.items():
            result = timing.value
            table.row(
                *(dtype, name, timing.median, times(timing.median / one)),
                *(f"{result.objective:.9f}", result.num_passes),
                dtype=dtype,
                seconds=timing.seconds,
                against_one=timing.median / one,
                objective=result.objective,
            )
            if name != LOOP:
                label = f"{name}, {dtype}"
                report.bar("restarts against a loop", label, number * one / timing.median)
    table.note(
        "One fit is the mean of those that were made one after the other, from the same draws."
    )


def fitted(
    x: Tensor, k: int, number: int, max_iter: int, generator: Generator, *, prune: bool
) -> EMResult:
    """A fit from some starts."""
    layer = GMMLayer(x.shape[1], k, dtype=x.dtype)
    return fit_em(
        layer,
        x,
        initializer="random_from_data",
        num_restarts=number,
        prune=prune,
        max_iter=max_iter,
        generator=generator,
    )


def together(x: Tensor, *, k: int, number: int, max_iter: int, prune: bool) -> EMResult:
    """All starts in one call."""
    return fitted(x, k, number, max_iter, torch.Generator().manual_seed(1), prune=prune)


def loop(x: Tensor, *, k: int, number: int, max_iter: int) -> EMResult:
    """The best of as many calls, from the same draws."""
    generator = torch.Generator().manual_seed(1)
    found = [fitted(x, k, 1, max_iter, generator, prune=False) for _ in range(number)]
    return max(found, key=lambda result: result.objective)

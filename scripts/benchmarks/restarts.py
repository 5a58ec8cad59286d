"""Sixteen starts side by side, against one after the other."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Case:
    """What is fitted, and how starts are drawn."""

    n: int
    d: int
    k: int
    initializer: str
    number: int = 16
    max_iter: int = 30


def run(settings: Settings, report: Report) -> None:
    """The default start, and one that leaves some components with a handful of rows."""
    poor = Case(10_000, 16, 16, "random_from_data")
    cases = settings.pick(
        [Case(50_000, 32, 32, "kmeans"), poor],
        [Case(20_000, 16, 16, "kmeans"), poor],
        [Case(400, 4, 3, "kmeans", 3, 20)],
    )
    for case in cases:
        one_case(settings, report, case)


def one_case(settings: Settings, report: Report, case: Case) -> None:
    """With pruning, without it, and as a loop."""
    n, d, k, number = case.n, case.d, case.k, case.number
    data, few = rows.clusters(n, d, k), rows.clusters(max(200, 8 * k * d), d, k)
    table = report.table(
        f"{number} starts by {case.initializer}, N = {n:,}, D = {d}, K = {k}, full, tolerance "
        f"0.001, at most {case.max_iter} iterations (CPU seconds, one thread)",
        *("dtype", "how", "seconds", "against one fit", "best objective", "passes of the best"),
    )
    dtypes = settings.pick(["float32"], ["float32", "float64"], ["float32", "float64"])
    for dtype in dtypes:
        x = data.rows(dtype)
        ways = {
            LOOP: partial(loop, case),
            TOGETHER: partial(together, case, prune=False),
            PRUNED: partial(together, case, prune=True),
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
                *(f"{result.objective:.9f}", result.num_e_steps),
                dtype=dtype,
                seconds=timing.seconds,
                against_one=timing.median / one,
                objective=result.objective,
            )
            if name != LOOP:
                label = f"{name}, {dtype}, {case.initializer}"
                report.bar("restarts against a loop", label, number * one / timing.median)
    table.note(
        "One fit is the mean of those that were made one after the other, from the same draws. In "
        "float32 the last digits decide where each of them stops."
    )


def fitted(case: Case, x: Tensor, number: int, generator: Generator, *, prune: bool) -> EMResult:
    """A fit from some starts."""
    layer = GMMLayer(case.d, case.k, dtype=x.dtype)
    return fit_em(
        layer,
        x,
        initializer=case.initializer,
        num_restarts=number,
        prune=prune,
        max_iter=case.max_iter,
        generator=generator,
    )


def together(case: Case, x: Tensor, *, prune: bool) -> EMResult:
    """All starts in one call."""
    return fitted(case, x, case.number, torch.Generator().manual_seed(1), prune=prune)


def loop(case: Case, x: Tensor) -> EMResult:
    """The best of as many calls, from the same draws."""
    generator = torch.Generator().manual_seed(1)
    found = [fitted(case, x, 1, generator, prune=False) for _ in range(case.number)]
    return max(found, key=lambda result: result.objective)

"""Passes of EM over rows with missing entries, beside a pass over the same rows without."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, SufficientStatistics

SHARE, FEW_PATTERNS = 0.2, 10
# Passes of one run: in a fit a pass follows another one over the same rows.
PASSES = 4


def run(settings: Settings, report: Report) -> None:
    """Entries missing at random, and in a few patterns, for every family and dtype."""
    n, d, k = settings.pick((100_000, 16, 8), (20_000, 16, 8), (2_400, 4, 2))
    data = rows.clusters(n, d, k)
    generator = torch.Generator().manual_seed(0)
    at_random = torch.rand(n, d, generator=generator) < SHARE
    kinds = torch.rand(FEW_PATTERNS, d, generator=generator) < SHARE
    few = kinds[torch.randint(FEW_PATTERNS, (n,), generator=generator)]
    patterns = len(torch.unique(at_random, dim=0))
    table = report.table(
        f"A pass with {SHARE:.0%} of the entries missing, N = {n:,}, D = {d}, K = {k} (CPU "
        "seconds, one thread, medians)",
        *("family", "dtype", "nothing missing", f"{patterns:,} patterns"),
        *(f"{FEW_PATTERNS} patterns", "many against none", "few against none"),
    )
    for family in rows.FAMILIES:
        start = rows.start(family, data)
        for dtype in rows.DTYPES:
            layer, x = rows.in_dtype(start, dtype), data.rows(dtype)
            holed = [x, x.masked_fill(at_random, torch.nan), x.masked_fill(few, torch.nan)]
            made = [
                Contender(name, passes(rows.FitSteps(layer, own, missing="em")))
                for name, own in zip(("none", "many", "few"), holed, strict=True)
            ]
            with threads(1):
                timings = interleaved(made, settings.times())
            none, many, some = (timings[one.name].median / PASSES for one in made)
            table.row(
                *(family, dtype, none, many, some, times(many / none), times(some / none)),
                seconds={name: timing.seconds for name, timing in timings.items()},
                difference=max(
                    _difference(timings[name].value, layer, own)
                    for name, own in zip(("many", "few"), holed[1:], strict=True)
                ),
            )
    table.note(
        f"A run is {PASSES} passes, as in a fit, and its seconds are of all of them. Rows are "
        "grouped by pattern once for a fit. The difference is of the log-likelihood of a "
        "pass from the sum of the rows' log densities, relative to it."
    )


def passes(steps: rows.FitSteps) -> Callable[[], SufficientStatistics]:
    """A function that takes some passes over the rows, and returns what the last one gives."""

    def run() -> SufficientStatistics:
        for _ in range(PASSES - 1):
            steps.statistics()
        return steps.statistics()

    return run


def _difference(stats: SufficientStatistics, layer: GMMLayer, x: Tensor) -> float:
    """Between the log-likelihood of statistics and that of the densities of the rows."""
    with torch.no_grad():
        expected = rows.in_dtype(layer, "float64").log_prob(x.double(), missing="marginalize").sum()
    return float((stats.log_likelihood - expected).abs() / expected.abs())

"""Rows with many patterns of missing entries: imputation and density."""

from __future__ import annotations

import torch

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import MixtureOfGaussians
from gmm_lightning.distributions import condition, impute, log_prob_observed


def run(settings: Settings, report: Report) -> None:
    """Every family, against one conditional distribution for each pattern."""
    n, d, k = settings.pick((5000, 11, 5), (2000, 11, 5), (60, 4, 2))
    data = rows.clusters(max(1000, n), d, k)
    x = data.rows("float64")[:n].clone()
    generator = torch.Generator().manual_seed(0)
    share = 0.35 * torch.rand(n, 1, generator=generator)
    x[torch.rand(n, d, generator=generator) < share] = torch.nan
    number = len(torch.unique(x.isnan(), dim=0))
    table = report.table(
        f"Missing entries, N = {n:,}, D = {d}, K = {k}, {number:,} patterns, float64 (CPU seconds, "
        "one thread, medians)",
        *("family", "mean", "draw", "log density", "pattern by pattern", "faster by"),
    )
    for family in rows.FAMILIES:
        layer = rows.in_dtype(rows.given(family, data), "float64")
        mixture = layer.distribution().map_parameters(torch.Tensor.detach)
        made = [
            Contender("mean", lambda mixture=mixture: impute(mixture, x)),
            Contender("draw", lambda mixture=mixture: impute(mixture, x, "draw", generator)),
            Contender("log density", lambda mixture=mixture: log_prob_observed(mixture, x)),
            Contender("each", lambda mixture=mixture: by_pattern(mixture, x)),
        ]
        with threads(1):
            timings = interleaved(made, settings.times(5, 3))
        seconds = [timings[contender.name].median for contender in made]
        table.row(
            *(family, *seconds, times(seconds[-1] / seconds[0])),
            seconds={name: timing.seconds for name, timing in timings.items()},
            difference=float((timings["mean"].value - timings["each"].value).abs().max()),
        )


def by_pattern(mixture: MixtureOfGaussians, x: torch.Tensor) -> torch.Tensor:
    """Rows with conditional means, by `condition` for each pattern in turn."""
    filled = x.clone()
    kinds, which = torch.unique(~x.isnan(), dim=0, return_inverse=True)
    for number, seen in enumerate(kinds):
        at = (which == number).nonzero()
        if not seen.all():
            given = condition(mixture, seen, x[at, seen]) if seen.any() else mixture
            filled[at, ~seen] = given.mean
    return filled

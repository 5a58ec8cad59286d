"""Draws: of the whole mixture, within regions, and with gradients."""

from __future__ import annotations

import torch

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, clock_for, interleaved
from benchmarks.report import Report
from benchmarks.settings import Settings
from gmm_lightning.distributions import Ball, Box, Confidence, HalfSpace, Shell, Where


def run(settings: Settings, report: Report) -> None:
    """Seconds for so many rows of eight full components, by the number of features."""
    n = settings.pick(100_000, 20_000, 200)
    table = report.table(
        f"{n:,} draws of 8 full components, float32, {settings.device} (seconds, one thread)",
        *("D", "way", "seconds", "rows"),
    )
    for d in settings.pick((2, 10, 32), (2, 10), (2,)):
        data = rows.clusters(1000, d, 8)
        layer = rows.in_dtype(rows.start("full", data), "float32", settings.device)
        centre = layer.means[0].detach()
        unit = layer.distribution().variance.detach().sqrt()
        ways = {
            "all": {},
            "quasi": {"quasi": True},
            "shell beyond 10": {"within": Shell(10.0, float("inf"))},
            "confidence 99 to 100 %": {"within": Confidence(0.99, 1.0)},
            "ball about a mean": {"within": Ball(centre, float(unit.mean()))},
            "box about a mean": {"within": Box(centre - unit, centre + unit)},
            "half-space": {"within": HalfSpace(torch.ones(d), 3.0 * float(unit.sum()))},
            "where": {"within": Where(lambda x: x[:, 0] > 0)},
        }
        made = [
            Contender(name, lambda options=options, layer=layer: layer.sample(n, **options))
            for name, options in ways.items()
        ]
        made.append(Contender("rsample", lambda layer=layer: layer.rsample(n // 10)))
        with threads(1):
            timings = interleaved(made, settings.times(3), clock_for(settings.device))
        for contender in made:
            timing = timings[contender.name]
            count = n // 10 if contender.name == "rsample" else n
            table.row(d, contender.name, timing.median, count, seconds=timing.seconds)

"""The M-step's share of an iteration when there are many parameters."""

from __future__ import annotations

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report
from benchmarks.settings import Settings
from gmm_lightning import e_step, m_step

MILLION = 1_000_000


def run(settings: Settings, report: Report) -> None:
    """All families, both dtypes."""
    d, k = settings.pick((64, 256), (64, 64), (4, 3))
    few, many = settings.pick((10_000, 30_000), (5_000, 15_000), (300, 600))
    table = report.table(
        f"M-step, D = {d}, K = {k} (CPU seconds, one thread, medians)",
        *("family", "dtype", "M-step", "E-step, per million rows", "share at N = 1,000,000"),
    )
    data = rows.clusters(many, d, k)
    for family in rows.FAMILIES:
        start = rows.given(family, data)
        for dtype in rows.DTYPES:
            x = data.rows(dtype)
            layer = rows.in_dtype(start, dtype)
            fixed = rows.in_dtype(start, dtype)
            stats = e_step(layer, x)
            small, large = (rows.FitSteps(fixed, part) for part in (x[:few], x))
            made = [
                Contender("m_step", lambda layer=layer, stats=stats: m_step(layer, stats)),
                Contender("few", small.statistics),
                Contender("many", large.statistics),
            ]
            with threads(1):
                timings = interleaved(made, settings.times(3, 1))
            times = {name: timing.median for name, timing in timings.items()}
            per_row = (times["many"] - times["few"]) / (many - few)
            share = times["m_step"] / (times["m_step"] + MILLION * per_row)
            table.row(
                *(family, dtype, times["m_step"], MILLION * per_row, f"{share:.2%}"),
                seconds={name: timing.seconds for name, timing in timings.items()},
                share=share,
            )
    table.note(
        f"Nothing was measured with a million rows: the E-step's time per row is the slope between "
        f"{few:,} and {many:,} rows inside a fit, and an E-step is linear in the rows."
    )

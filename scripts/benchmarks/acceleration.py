"""Leaps along the path of EM."""

from __future__ import annotations

from typing import Any

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import fit_em

ACCELERATIONS = (None, "squarem", "anderson")


def run(settings: Settings, report: Report) -> None:
    """Passes and time to two tolerances."""
    n, d, k = settings.pick((20_000, 8, 8), (5_000, 8, 8), (400, 2, 3))
    max_iter = settings.pick(2_000, 500, 50)
    # Near enough to each other that EM is slow.
    data = rows.clusters(n, d, k, separation=settings.pick(2.5, 2.5, 3.0))
    x = data.rows("float64")
    table = report.table(
        f"Acceleration, N = {n:,}, D = {d}, K = {k}, float64 (CPU seconds, one thread)",
        *("family", "tolerance", "acceleration", "passes", "seconds", "plain EM takes"),
        *("objective above plain", "converged"),
    )
    for family in settings.pick(("full", "diag"), ("full",), ("full",)):
        start = rows.start(family, data)
        for tol in (1e-4, 1e-8):
            made = [
                Contender(
                    str(name),
                    lambda name=name, tol=tol, start=start: fitted(start, x, tol, name, max_iter),
                    warm=lambda name=name, start=start: fitted(start, x[:500], 1e-2, name, 10),
                )
                for name in ACCELERATIONS
            ]
            with threads(1):
                timings = interleaved(made, settings.times(1, 1))
            plain = timings["None"]
            for name, timing in timings.items():
                result = timing.value
                above = result.objective - plain.value.objective
                table.row(
                    *(family, f"{tol:g}", name, result.num_e_steps, timing.median),
                    *(times(plain.median / timing.median), above, str(result.converged)),
                    seconds=timing.seconds,
                    passes=result.num_e_steps,
                    objective_above_plain=above,
                )
                if name != "None":
                    label = f"{family}, {name} to {tol:g}"
                    report.bar("acceleration against plain EM", label, plain.median / timing.median)


def fitted(start: Any, x: Any, tol: float, acceleration: str | None, max_iter: int) -> Any:
    """A fit from the same parameters."""
    layer = rows.in_dtype(start, "float64")
    return fit_em(layer, x, initializer=None, tol=tol, max_iter=max_iter, acceleration=acceleration)

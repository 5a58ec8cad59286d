"""Sweeps of the Gibbs sampler, beside passes of EM."""

from __future__ import annotations

from typing import Any

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.bayes import fit_gibbs

CHAINS = 4
# Sweeps of one run.
FEW, MANY = 5, 25


def run(settings: Settings, report: Report) -> None:
    """A thousand sweeps over few rows, and one sweep over many."""
    table = report.table(
        f"Gibbs sweeps of {CHAINS} chains, full, float64 (CPU seconds, one thread, medians)",
        *(
            "N",
            "D",
            "K",
            "1,000 sweeps",
            "a sweep of a chain",
            "a pass of EM",
            "sweep against pass",
        ),
    )
    for n, d, k in settings.pick(
        ((500, 2, 8), (100_000, 8, 8)), ((500, 2, 8), (10_000, 8, 8)), ((100, 2, 2),)
    ):
        data = rows.clusters(n, d, k)
        x = data.rows("float64")

        def sweeps(number: int, x: Any = x, d: int = d, k: int = k) -> Any:
            options = {"warmup": 0, "num_chains": CHAINS, "generator": 0, "initializer": "random"}
            return lambda: fit_gibbs(GMMLayer(d, k), x, num_draws=number, **options)

        def passes(number: int, x: Any = x, d: int = d, k: int = k) -> Any:
            options = {"tol": 0.0, "acceleration": None, "generator": 0, "initializer": "random"}
            return lambda: fit_em(GMMLayer(d, k).double(), x, max_iter=number, **options)

        made = [
            Contender(f"{name} {number}", make(number))
            for name, make in (("Gibbs", sweeps), ("EM", passes))
            for number in (FEW, MANY)
        ]
        with threads(1):
            timings = interleaved(made, settings.times(5, 3))
        gibbs, em = (
            (timings[f"{name} {MANY}"].median - timings[f"{name} {FEW}"].median) / (MANY - FEW)
            for name in ("Gibbs", "EM")
        )
        table.row(
            *(n, d, k, 1000 * gibbs, gibbs / CHAINS, em, times(gibbs / CHAINS / em)),
            seconds={name: timing.seconds for name, timing in timings.items()},
        )

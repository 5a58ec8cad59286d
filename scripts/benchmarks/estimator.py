"""scikit-learn's `GaussianMixture` and ours under its name, from the same start."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import machine, peers, rows
from benchmarks.iteration import SKLEARN
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings, Skipped

OURS, FAMILY, DTYPE = "gmm_lightning", "full", "float64"
# Runs of an import, each in a process of its own.
IMPORTS = 5


def run(settings: Settings, report: Report) -> None:
    """Whole fits, answers, the calls of a small fit, and imports."""
    if peers.missing(SKLEARN) is not None:
        raise Skipped("scikit-learn is not installed")
    fits(settings, report)
    answers(settings, report)
    calls(settings, report)
    imports(settings, report)


def pair(start: Any, **options: Any) -> dict[str, Any]:
    """Both estimators, from a layer's parameters."""
    from gmm_lightning.estimators import GaussianMixture

    theirs = peers.scikit_learn(FAMILY, start, DTYPE, tol=1e-3, max_iter=100)
    theirs.set_params(reg_covar=1e-6, **options)
    return {OURS: GaussianMixture(**theirs.get_params()), SKLEARN: theirs}


def contenders(both: dict[str, Any], method: str, x: np.ndarray) -> list[Contender]:
    """The same method of both."""
    return [
        Contender(name, functools.partial(getattr(own, method), x)) for name, own in both.items()
    ]


def fits(settings: Settings, report: Report) -> None:
    """Whole fits."""
    table = report.table(
        f"GaussianMixture, whole fits, {FAMILY}, {DTYPE} (CPU seconds, one thread, medians)",
        *("N", "D", "K", "iterations", OURS, SKLEARN, "faster", "largest difference"),
    )
    for n, d, k, most in settings.pick(
        ((300, 2, 3, 100), (100_000, 32, 32, 10), (1_000_000, 10, 8, 10)),
        ((300, 2, 3, 100), (10_000, 32, 32, 10), (100_000, 10, 8, 10)),
        ((300, 2, 3, 5),),
    ):
        data = rows.clusters(n, d, k, separation=1.5)
        x, both = data.rows(DTYPE).numpy(), pair(rows.start(FAMILY, data), max_iter=most)
        with threads(1):
            timings = interleaved(
                contenders(both, "fit", x), settings.times(31 if n < 1000 else 3, 3)
            )
        ours, theirs = (timings[name].median for name in (OURS, SKLEARN))
        assert both[OURS].n_iter_ == both[SKLEARN].n_iter_
        apart = float(np.abs(both[OURS].means_ - both[SKLEARN].means_).max())
        table.row(
            *(n, d, k, both[OURS].n_iter_, ours, theirs, times(theirs / ours), apart),
            seconds={name: timing.seconds for name, timing in timings.items()},
            difference=apart,
            dtype=DTYPE,
        )
        report.bar("GaussianMixture, whole fits", f"N={n:,} D={d} K={k}", theirs / ours)
    table.note(
        "Both begin at the same parameters and stop by tol=1e-3 or after as many iterations; "
        "starts by k-means are not part of it. The largest difference is of the means."
    )


def answers(settings: Settings, report: Report) -> None:
    """Probabilities and densities of many rows."""
    n, d, k = settings.pick((100_000, 32, 32), (20_000, 32, 32), (500, 4, 3))
    table = report.table(
        f"GaussianMixture, N = {n:,}, D = {d}, K = {k}, {FAMILY} (CPU seconds, one thread)",
        *("method", "dtype", OURS, SKLEARN, "faster", "largest difference"),
    )
    data = rows.clusters(n, d, k)
    both = pair(rows.start(FAMILY, data), max_iter=1)
    for own in both.values():
        own.fit(data.rows(DTYPE).numpy()[: 40 * d])
    x = data.rows(DTYPE).numpy()
    for method in ("predict_proba", "score_samples", "predict"):
        with threads(1):
            timings = interleaved(contenders(both, method, x), settings.times(5, 3))
        ours, theirs = (timings[name] for name in (OURS, SKLEARN))
        apart = float(np.abs(ours.value - theirs.value).max())
        ratio = theirs.median / ours.median
        table.row(
            *(method, DTYPE, ours.median, theirs.median, times(ratio), apart),
            seconds={name: timing.seconds for name, timing in timings.items()},
            difference=apart,
        )
        report.bar("GaussianMixture, answers", method, ratio)


def calls(settings: Settings, report: Report) -> None:
    """What a small fit spends on calling torch, whatever these calls compute."""
    data = rows.clusters(300, 2, 3, separation=1.5)
    x = data.rows(DTYPE).numpy()
    few, many = 2, settings.pick(12, 12, 4)
    found: dict[str, list[float]] = {OURS: [], SKLEARN: []}
    operations = []
    for steps in (few, many):
        both = pair(rows.start(FAMILY, data), max_iter=steps)
        for own in both.values():
            own.set_params(tol=0.0)
        with threads(1):
            timings = interleaved(contenders(both, "fit", x), settings.times(31, 5))
            for name, timing in timings.items():
                found[name].append(1e6 * timing.median)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            both[OURS].fit(x)
        top = [event for event in seen.events() or () if event.cpu_parent is None]
        operations.append(sum(event.name.startswith("aten::") for event in top))
    each = (operations[1] - operations[0]) / (many - few)
    table = report.table(
        "GaussianMixture, one iteration of N = 300, D = 2, K = 3 (microseconds, one thread)",
        *("what", "value"),
    )
    for name in (OURS, SKLEARN):
        table.row(f"{name}, an iteration", (found[name][1] - found[name][0]) / (many - few))
        table.row(f"{name}, a fit of {few} iterations", found[name][0])
    call = smallest_call()
    table.row(f"operations of torch in an iteration of {OURS}", each)
    table.row("the smallest operation", call)
    table.row("so many of the smallest", each * call)
    table.note(
        "An iteration on few rows is the price of calling torch, whatever is computed: that of its "
        "smallest operation times their number, and the Python between them."
    )


def smallest_call() -> float:
    """Microseconds of an operation of torch on one number."""
    value, number = torch.zeros(1), 20_000
    begun = time.process_time()
    for _ in range(number):
        value.neg()
    return 1e6 * (time.process_time() - begun) / number


def imports(settings: Settings, report: Report) -> None:
    """Seconds until the estimator can be used, beside what it stands on."""
    table = report.table(
        "GaussianMixture, imports (seconds on the clock, medians)", *("imported", "seconds")
    )
    medians = {}
    for name, code in {
        "torch and sklearn.base": "import torch, sklearn.base",
        "our GaussianMixture": "from gmm_lightning.estimators import GaussianMixture",
        "scikit-learn's GaussianMixture": "from sklearn.mixture import GaussianMixture",
    }.items():
        taken = [
            float(machine.child("import_time", code, threads=1))
            for _ in range(settings.times(IMPORTS, 3))
        ]
        medians[name] = float(np.median(taken))
        table.row(name, medians[name], seconds=taken)

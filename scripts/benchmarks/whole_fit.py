"""Whole fits to the same tolerance, from the same parameters."""

from __future__ import annotations

import time

import torch

from benchmarks import peers, rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.peers import Outcome, Problem
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, e_step, fit_em

OURS = "gmm_lightning"
CASES = (
    ("full", "float32"),
    ("full", "float64"),
    ("diag", "float32"),
    ("diag", "float64"),
    ("spherical", "float32"),
    ("tied", "float32"),
    ("tied", "float64"),
)


def run(settings: Settings, report: Report) -> None:
    """Every family, in float32 against every library, in float64 against scikit-learn."""
    n, d, k = settings.pick((100_000, 32, 32), (10_000, 16, 16), (600, 4, 3))
    tol, max_iter = 1e-3, 100
    # Seconds after which a contender is not asked again.
    budget = settings.pick(8.0, 3.0, 1.0)
    report_missing = {name: peers.missing(name) for name in peers.FITS}
    table = report.table(
        f"Whole fit, N = {n:,}, D = {d}, K = {k}, tolerance {tol:g} nats per row "
        "(CPU seconds, one thread, medians)",
        *("family", "dtype", "library", "seconds", "wall seconds", "passes", "seconds per pass"),
        *("gmm_lightning is faster by", "mean log-likelihood above ours", "runs"),
    )
    data, small = rows.clusters(n, d, k), rows.clusters(max(200, 8 * k * d), d, k)
    for family, dtype in CASES:
        problem, warm = (problem_of(family, dtype, part) for part in (data, small))
        walls: dict[str, list[float]] = {}
        made = [contender(OURS, fit_ours, problem, warm, tol, max_iter, walls)]
        for name, (fit, families, dtypes) in peers.FITS.items():
            asked = settings.size == "tiny" or dtype == "float32" or name == "scikit-learn"
            if asked and report_missing[name] is None and family in families and dtype in dtypes:
                made.append(contender(name, fit, problem, warm, tol, max_iter, walls))
        with threads(1):
            timings = interleaved(made, settings.times(3, 2), budget=budget)
        ours = timings[OURS]
        reached = likelihood(problem, ours.value)
        for name, timing in timings.items():
            ratio = timing.median / ours.median
            above = likelihood(problem, timing.value) - reached
            table.row(
                *(family, dtype, name, timing.median, sorted(walls[name])[len(walls[name]) // 2]),
                *(timing.value.passes, timing.median / timing.value.passes),
                *(None if name == OURS else times(ratio), above, len(timing.seconds)),
                seconds=timing.seconds,
                wall_seconds=walls[name],
                passes=timing.value.passes,
                log_likelihood_above_ours=above,
            )
            if name != OURS:
                report.bar("a whole fit", f"{family} {dtype} against {name}", ratio)
    absent = [f"{name} ({why})" for name, why in report_missing.items() if why is not None]
    table.note(
        "Passes are E-steps until the tolerance was met: of what remains to be gained for us, of "
        "the last gain for the others. scikit-learn and tgmm make one M-step "
        "and one E-step more after that, for labels; torchgmm reads the rows twice per pass, and "
        "finds its first covariances itself; tgmm's tolerance is relative and was converted. "
        + (f"Not there: {'; '.join(absent)}." if absent else "Every library was there.")
    )


def problem_of(family: str, dtype: str, data: rows.Clusters) -> Problem:
    """The same start for everyone."""
    return Problem(family, rows.start(family, data), data.centres, data.rows(dtype).numpy())


def contender(
    name: str,
    fit: peers.Fit,
    problem: Problem,
    warm: Problem,
    tol: float,
    max_iter: int,
    walls: dict[str, list[float]],
) -> Contender:
    """A fit that also notes its time on the clock; it is warmed up with few rows."""
    walls[name] = []

    def act() -> Outcome:
        begun = time.perf_counter()
        found = fit(problem, tol, max_iter)
        walls[name].append(time.perf_counter() - begun)
        return found

    return Contender(name, act, warm=lambda: fit(warm, tol, 2))


def fit_ours(problem: Problem, tol: float, max_iter: int) -> Outcome:
    """`fit_em` from given parameters."""
    layer = rows.in_dtype(problem.start, str(problem.x.dtype))
    result = fit_em(layer, problem.x, initializer=None, tol=tol, max_iter=max_iter)
    return Outcome(result.num_e_steps, rows.parameters(layer))


def likelihood(problem: Problem, found: Outcome) -> float:
    """Mean log-likelihood of all rows in float64."""
    given = {name: torch.from_numpy(value) for name, value in found.parameters.items()}
    layer = GMMLayer.from_parameters(
        given["weights"], given["means"], given["covariances"], problem.family
    )
    x = torch.from_numpy(problem.x).double()
    return float(e_step(layer, x).log_likelihood) / len(x)

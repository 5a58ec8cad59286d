"""One EM iteration, from the same parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks import peers, rows
from benchmarks.machine import threads
from benchmarks.measure import (
    Contender,
    Timing,
    clock_for,
    interleaved,
    matrix_product,
    product_rate,
    wall_seconds,
)
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, e_step, m_step
from gmm_lightning.em import MixtureParameters

SHARED = ("full", "diag", "spherical", "tied")
IN_A_FIT, STATELESS, SKLEARN, PLAIN = "in a fit", "e_step + m_step", "scikit-learn", "plain torch"


def run(settings: Settings, report: Report) -> None:
    """A table per (N, D, K)."""
    shapes = settings.pick(
        [(100_000, 32, 32), (200_000, 16, 16), (20_000, 64, 64), (50_000, 8, 64), (500, 4, 3)],
        [(20_000, 32, 32), (20_000, 8, 16), (500, 4, 3)],
        [(600, 4, 3)],
    )
    for shape in shapes:
        one_shape(settings, report, *shape, main=shape == shapes[0])
    if settings.device == "cpu":
        on_the_clock(settings, report, *shapes[0])


def one_shape(settings: Settings, report: Report, n: int, d: int, k: int, *, main: bool) -> None:
    """Every family and dtype."""
    clock = "CPU seconds, one thread" if settings.device == "cpu" else "seconds"
    table = report.table(
        f"One EM iteration, N = {n:,}, D = {d}, K = {k}, {settings.device} ({clock}, medians)",
        *("family", "dtype", IN_A_FIT, STATELESS, SKLEARN, PLAIN),
        *("in a fit against scikit-learn", "stateless against scikit-learn"),
        *("against plain torch", "of the matrix-product rate"),
        *("largest difference", "ours from float64"),
    )
    data = rows.clusters(n, d, k)
    chosen = rows.FAMILIES if main or settings.size == "tiny" else SHARED
    for family in chosen:
        start = rows.start(family, data)
        single = data.rows("float32", settings.device)
        reference = stepped(start, single.double())
        for dtype in rows.DTYPES:
            x = data.rows(dtype, settings.device)
            product = matrix_product(x.dtype, settings.device)
            made, compare = contenders(settings, family, start, x)
            with threads(1):
                runs = settings.times() if main else settings.times(3)
                timings = interleaved([*made, product], runs, clock_for(settings.device))
            ours, stateless = timings[IN_A_FIT].median, timings[STATELESS].median
            theirs, plain = (median(timings, name) for name in (SKLEARN, PLAIN))
            rate = product_rate(timings[product.name])
            share = rows.operations(n, d, k) / ours / rate if family == "full" else None
            table.row(
                *(family, dtype, ours, stateless, theirs, plain),
                *(times(theirs and theirs / ours), times(theirs and theirs / stateless)),
                times(plain and plain / ours),
                None if share is None else f"{share:.0%}",
                difference := compare(),
                error := rows.largest_difference(
                    reference, rows.parameters(stepped(start, single.to(x)))
                ),
                difference=difference,
                from_float64=error,
                share=share,
                matrix_product_rate=rate,
                seconds={name: timing.seconds for name, timing in timings.items()},
            )
            if theirs and main:
                report.bar("one iteration against scikit-learn", f"{family} {dtype}", theirs / ours)
            if plain and settings.device != "cpu":
                panel = "one iteration against plain torch"
                report.bar(panel, f"{family} {dtype} {n:,} {d} {k}", plain / ours)
    if main:
        table.note(
            "In a fit, the buffers are made once, and so are the pooled moments of families that "
            "share a covariance. The matrix-product rate is that of 1024 x 1024 products in the "
            "same run; operations are counted as 2 * 2 N K (D(D+1)/2 + D + 1). The largest "
            "difference is between the parameters after the iteration, ours and the peers'; the "
            "last column compares ours with ours in float64, on the same rows."
        )


def contenders(
    settings: Settings, family: str, start: GMMLayer, x: torch.Tensor
) -> tuple[list[Contender], Any]:
    """Those of a family, and what compares their parameters after a run."""
    dtype = str(x.dtype).removeprefix("torch.")
    layer = rows.in_dtype(start, dtype, settings.device)
    begin, steps = MixtureParameters.from_layer(layer), rows.FitSteps(copy.deepcopy(layer), x)

    def stateless() -> None:
        m_step(layer, e_step(layer, x))

    made = [
        Contender(IN_A_FIT, steps.iterate, steps.reset),
        Contender(STATELESS, stateless, lambda: begin.write_to(layer)),
    ]
    found = []
    if settings.device == "cpu" and family in SHARED and peers.missing(SKLEARN) is None:
        act, reset, peer = peers.scikit_learn_iteration(family, start, x.numpy())
        made.append(Contender(SKLEARN, act, reset))
        found.append(lambda: peers.scikit_learn_parameters(family, peer))
    if family in ("full", "diag"):
        chunk = max(64, (1 << (18 if settings.device == "cpu" else 25)) // layer.means.numel())
        plain = peers.PlainIteration(family, start, x, chunk)
        made.append(Contender(PLAIN, plain.run, plain.reset))
        found.append(plain.parameters)

    def compare() -> float:
        both = [rows.parameters(steps.fitted()), *(get() for get in found)]
        return max(rows.largest_difference(layer, theirs) for theirs in both)

    return made, compare


def stepped(start: GMMLayer, x: torch.Tensor) -> GMMLayer:
    """A copy after one iteration in the dtype of the rows."""
    layer = rows.in_dtype(start, str(x.dtype).removeprefix("torch."), str(x.device))
    m_step(layer, e_step(layer, x))
    return layer


def median(timings: dict[str, Timing], name: str) -> float | None:
    """Seconds, or None for a contender that is not there."""
    return timings[name].median if name in timings else None


def on_the_clock(settings: Settings, report: Report, n: int, d: int, k: int) -> None:
    """Wall time with more threads, beside the CPU times."""
    table = report.table(
        f"One EM iteration on the clock, {settings.threads} threads, N = {n:,}, D = {d}, K = {k} "
        "(wall seconds, medians)",
        *("family", "dtype", IN_A_FIT, STATELESS, SKLEARN),
        *("in a fit against scikit-learn", "stateless against scikit-learn"),
    )
    data = rows.clusters(n, d, k)
    for family in SHARED:
        start = rows.start(family, data)
        for dtype in rows.DTYPES:
            made, _ = contenders(settings, family, start, data.rows(dtype))
            made = [contender for contender in made if contender.name != PLAIN]
            with threads(settings.threads):
                timings = interleaved(made, settings.times(3, 1), wall_seconds, budget=6.0)
            ours, stateless = timings[IN_A_FIT].median, timings[STATELESS].median
            theirs = median(timings, SKLEARN)
            table.row(
                *(family, dtype, ours, stateless, theirs),
                *(times(theirs and theirs / ours), times(theirs and theirs / stateless)),
                seconds={name: timing.seconds for name, timing in timings.items()},
            )

"""One EM iteration where some components are tight, and where some are at the floor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks import peers, rows
from benchmarks.iteration import IN_A_FIT, SKLEARN
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, fit_em

FAMILIES, TIGHT = ("full", "diag"), 1e-3
STEPS = 3


def run(settings: Settings, report: Report) -> None:
    """A table of passes with tight components, and one of fits with components at the floor."""
    n, d, k = settings.pick((20_000, 8, 32), (5_000, 8, 32), (600, 4, 10))
    table = report.table(
        f"One EM iteration, N = {n:,}, D = {d}, K = {k}, some components of deviation {TIGHT:g} "
        "among those of 1 (CPU seconds, one thread, medians)",
        *("family", "dtype", "tight", IN_A_FIT, "against none tight"),
    )
    for family in FAMILIES:
        for dtype in rows.DTYPES:
            found = [tight_pass(settings, family, dtype, n, d, k, t) for t in (0, 1, k // 10)]
            for number, seconds in zip((0, 1, k // 10), found, strict=True):
                table.row(family, dtype, number, seconds, times(seconds / found[0]))
    if peers.missing(SKLEARN) is None:
        floored(settings, report)


def tight_pass(
    settings: Settings, family: str, dtype: str, n: int, d: int, k: int, tight: int
) -> float:
    """Median seconds of an iteration."""
    generator = torch.Generator().manual_seed(0)
    layer = GMMLayer(d, k, family, dtype=torch.float64)
    deviation = torch.ones(k, dtype=torch.float64)
    deviation[:tight] = TIGHT
    layer.set_parameters(
        means=3 * torch.randn(k, d, generator=generator, dtype=torch.float64),
        covariance_matrix=torch.eye(d, dtype=torch.float64) * deviation.square()[:, None, None],
    )
    drawn: Any = layer.sample(n, generator=generator)
    steps = rows.FitSteps(rows.in_dtype(layer, dtype), drawn.to(rows.DTYPES[dtype]))
    with threads(1):
        timings = interleaved(
            [Contender(IN_A_FIT, steps.iterate, steps.reset)], settings.times(9, 5)
        )
    return timings[IN_A_FIT].median


def floored(settings: Settings, report: Report) -> None:
    """Fits with so many components that some hold few rows."""
    n, d = settings.pick((20_000, 64), (10_000, 64), (300, 8))
    table = report.table(
        f"A fit of {STEPS} M-steps from random rows, diag, float32, N = {n:,}, D = {d} "
        "(CPU seconds, one thread, medians)",
        *("K", "events", "gmm_lightning", SKLEARN, "against scikit-learn"),
    )
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, d))
    x = centres[rng.integers(0, 300, n)] + 0.5 * rng.normal(size=(n, d))
    x = x.astype(np.float32)

    for k in settings.pick((256, 512, 1024), (256, 512), (64,)):

        def ours(k: int = k) -> int:
            layer = GMMLayer(d, k, "diag")
            generator = torch.Generator().manual_seed(0)
            options = {"initializer": "random_from_data", "max_iter": STEPS, "tol": 0.0}
            return len(fit_em(layer, x, generator=generator, **options).events)

        def theirs(k: int = k) -> None:
            peers.scikit_learn_fit("diag", k, x, STEPS)

        made = [Contender("gmm_lightning", ours), Contender(SKLEARN, theirs)]
        with threads(1):
            timings = interleaved(made, settings.times(3, 1))
        mine, peer = timings["gmm_lightning"], timings[SKLEARN].median
        table.row(k, mine.value, mine.median, peer, times(peer / mine.median))

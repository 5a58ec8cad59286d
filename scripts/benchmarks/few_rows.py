"""Whole fits of a few hundred rows, from the same start and with as many steps."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import peers, rows
from benchmarks.iteration import SKLEARN
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.peers import Problem
from benchmarks.report import Report, Table, times
from benchmarks.settings import Settings, Skipped
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.datasets import load

PLAIN, SQUAREM, COMPONENTS = "plain EM", "SQUAREM", 3


def run(settings: Settings, report: Report) -> None:
    """Every shared family and small data set."""
    if peers.missing(SKLEARN) is not None:
        raise Skipped("scikit-learn is not installed")
    table = report.table(
        f"Fits of few rows, K = {COMPONENTS}, float64 (CPU milliseconds, one thread, medians)",
        *("rows", "N", "D", "family", "M-steps", PLAIN, SQUAREM, SKLEARN),
        *("plain EM takes", "SQUAREM takes"),
    )
    for name in settings.pick(
        ("penguins", "thyroid_gland", "faithful"), ("faithful",), ("faithful",)
    ):
        x = np.asarray(load(name).x, dtype=float)
        x = (x - x.mean(0)) / x.std(0)
        for family in settings.pick(("full", "diag", "spherical", "tied"), ("full",), ("full",)):
            for steps in settings.pick((1, 40), (1, 40), (2,)):
                one_row(settings, table, name, family, x, steps)
    table.note(
        "All begin at the same parameters. The last columns are times in units of scikit-learn's."
    )


def one_row(
    settings: Settings, table: Table, name: str, family: str, x: np.ndarray, steps: int
) -> None:
    """A row of the table."""
    layer = GMMLayer(x.shape[1], COMPONENTS, family, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    fit_em(layer, x, max_iter=0, generator=generator)
    begin = {key: value.clone() for key, value in layer.state_dict().items()}

    def ours(acceleration: str | None) -> int:
        options = {"initializer": None, "max_iter": steps, "tol": 0.0}
        return fit_em(layer, x, acceleration=acceleration, **options).num_iterations

    def reset() -> None:
        layer.load_state_dict(begin)

    start = rows.in_dtype(layer, "float64")
    problem = Problem(family, start, layer.means.detach().numpy(), x)
    made = [
        Contender(PLAIN, lambda: ours(None), reset),
        Contender(SQUAREM, lambda: ours("squarem"), reset),
        Contender(SKLEARN, lambda: peers.fit_scikit_learn(problem, 0.0, steps).passes),
    ]
    with threads(1):
        timings = interleaved(made, settings.times(15, 5))
    seconds = [timings[each].median for each in (PLAIN, SQUAREM, SKLEARN)]
    table.row(
        *(name, len(x), x.shape[1], family, steps, *(1e3 * each for each in seconds)),
        *(times(each / seconds[-1]) for each in seconds[:2]),
        done={key: timing.value for key, timing in timings.items()},
        seconds={key: timing.seconds for key, timing in timings.items()},
    )

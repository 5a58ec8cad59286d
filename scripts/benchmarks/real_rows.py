"""One EM iteration on real rows: letters, satellite pixels and image patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers, rows
from benchmarks.iteration import IN_A_FIT, SKLEARN
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, Table, times
from benchmarks.settings import Settings, Skipped
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.datasets import load

# M-steps before the iteration that is measured: tight components have formed.
STEPS, SIDE = 8, 8
FAMILIES = ("full", "diag")


def run(settings: Settings, report: Report) -> None:
    """Every data set, number of components, family and dtype."""
    if peers.missing(SKLEARN) is not None:
        raise Skipped("the photographs are scikit-learn's")
    table = report.table(
        f"One EM iteration on real rows, after {STEPS} (CPU seconds, one thread, medians)",
        *("rows", "N", "D", "K", "family", "dtype", "products", "whitened", "overlap"),
        *(IN_A_FIT, SKLEARN, "against scikit-learn"),
    )
    limit = settings.pick(50_000, 5_000, 500)
    for name in settings.pick(
        ("letter", "satellite", "patches"), ("letter", "patches"), ("letter",)
    ):
        x = standard_rows(name, limit)
        for k in settings.pick((10, 20, 50), (10, 50), (4,)):
            for family in FAMILIES:
                for dtype in rows.DTYPES:
                    one_row(settings, table, name, x, k, family, dtype)
    table.note(
        "Both begin at the same parameters. Products, whitened: components that are computed in "
        "either way; overlap: components that share a row, on average. Columns have standard "
        "deviation 1; half of the patches are of each photograph."
    )


def standard_rows(name: str, limit: int) -> np.ndarray:
    """At most so many rows, in standard units."""
    x = patches(limit) if name == "patches" else np.asarray(load(name).x, dtype=float)[:limit]
    return (x - x.mean(0)) / x.std(0)


def patches(number: int) -> np.ndarray:
    """Cosine coefficients, but for the constant, of patches of scikit-learn's two photographs."""
    from scipy.fft import dctn
    from sklearn.datasets import load_sample_images

    rng, found = np.random.default_rng(0), []
    for image in load_sample_images().images:
        windows = np.lib.stride_tricks.sliding_window_view(image.mean(-1) / 255, (SIDE, SIDE))
        windows = windows.reshape(-1, SIDE, SIDE)
        chosen = windows[rng.choice(len(windows), number // 2, replace=False)]
        found.append(
            np.asarray(dctn(chosen, axes=(1, 2), norm="ortho")).reshape(len(chosen), -1)[:, 1:]
        )
    return np.concatenate(found)


def one_row(
    settings: Settings, table: Table, name: str, x: np.ndarray, k: int, family: str, dtype: str
) -> None:
    """A row of the table."""
    start = GMMLayer(x.shape[1], k, family, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    fit_em(start, x, max_iter=STEPS, generator=generator)
    own: Tensor = torch.from_numpy(x).to(rows.DTYPES[dtype])
    steps = rows.FitSteps(rows.in_dtype(start, dtype), own)
    steps.iterate()
    act, reset = peers.scikit_learn_pass(family, start, own.numpy())
    made = [Contender(IN_A_FIT, steps.iterate, steps.reset), Contender(SKLEARN, act, reset)]
    with threads(1):
        timings = interleaved(made, settings.times(5, 3))
    ours, theirs = timings[IN_A_FIT].median, timings[SKLEARN].median
    steps.reset()
    products, whitened, overlap = steps.ways()
    table.row(
        *(name, len(x), x.shape[1], k, family, dtype, products, whitened, overlap),
        *(ours, theirs, times(theirs / ours)),
        seconds={name: timing.seconds for name, timing in timings.items()},
    )

"""Many small mixtures at once, against a loop of fits by scikit-learn."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, Table, times
from benchmarks.settings import Settings, Skipped
from gmm_lightning import GMMLayer, MixtureClassifier, fit_classifier, fit_em
from gmm_lightning.covariances import FullCovariance
from gmm_lightning.datasets import load

OURS, LOOP = "gmm_lightning", "a loop of scikit-learn"
# Gains per row at which scikit-learn stops: its default, and one that ends as high as ours.
TOLERANCES = (1e-3, 1e-5)


@dataclass(frozen=True)
class Case:
    """Rows of many mixtures, and what is added to their variances.

    Attributes:
        name: of the rows.
        x: rows of each mixture.
        k: components of each.
        reg_covar: in the squared unit of the rows.
        sample: mixtures that the loop fits; its time is scaled up.
        fit: ours, to objectives of all mixtures.
    """

    name: str
    x: list[Tensor]
    k: int
    reg_covar: float
    sample: int
    fit: Callable[[Case], Tensor]


def run(settings: Settings, report: Report) -> None:
    """The letters of a classifier, and the pixels of a film, grey and in colour."""
    why = peers.missing("scikit-learn")
    if why is not None:
        raise Skipped(f"scikit-learn is not there: {why}")
    classes, k = settings.pick((26, 8), (10, 8), (3, 2))
    pixels, sample = settings.pick((19_200, 200), (1_920, 60), (30, 6))
    frames = settings.pick(51, 51, 20)
    table = report.table(
        "Many mixtures with full covariances, float32 (CPU seconds, one thread, medians)",
        *("rows", "mixtures", "rows of each", "D", "K", "dtype", OURS),
        *(f"{LOOP} to {tol:g}" for tol in TOLERANCES),
        *(f"against it, {tol:g}" for tol in TOLERANCES),
        *("objective", "above the loop"),
    )
    for case in (
        letters(classes, k, settings.pick(None, None, 200)),
        film(pixels, frames, 1, sample),
        film(pixels, frames, 3, sample),
    ):
        one_case(settings, report, table, case)
    table.note(
        "Both start from k-means, each from its own draws, and add the same to variances: what "
        "rounding to integers does, or the noise of a camera. Objectives are in nats per row, "
        "means over the mixtures that both fit, beside those of the loop to the smaller tolerance. "
        "Of the pixels the loop fits some, and its time is scaled up."
    )


def one_case(settings: Settings, report: Report, table: Table, case: Case) -> None:
    """A row of the table."""
    made = [
        Contender(OURS, partial(case.fit, case)),
        *(Contender(f"{tol:g}", partial(loop, case, tol)) for tol in TOLERANCES),
    ]
    with threads(1):
        timings = interleaved(made, settings.times(5, 3))
    ours = timings[OURS]
    share = len(case.x) / case.sample
    loops = [share * timings[f"{tol:g}"].median for tol in TOLERANCES]
    ratios = [seconds / ours.median for seconds in loops]
    # The loop fits the first mixtures.
    objective = ours.value[: case.sample].mean()
    above = float(objective) - timings[f"{TOLERANCES[-1]:g}"].value
    lengths = [len(own) for own in case.x]
    table.row(
        *(case.name, len(case.x), f"{min(lengths)} to {max(lengths)}"),
        *(case.x[0].shape[-1], case.k, "float32", ours.median, *loops, *map(times, ratios)),
        *(float(objective), above),
        seconds={name: timing.seconds for name, timing in timings.items()},
        ratios=ratios,
        above=above,
    )
    report.bar("many mixtures against a loop of scikit-learn", case.name, ratios[-1])


def loop(case: Case, tol: float) -> float:
    """The mean objective of fits of one mixture after the other."""
    mixture: Any = importlib.import_module("sklearn.mixture")
    scores = []
    for own in case.x[: case.sample]:
        rows = own.double().numpy()
        options = {"reg_covar": case.reg_covar, "tol": tol, "max_iter": 500, "random_state": 0}
        scores.append(mixture.GaussianMixture(case.k, **options).fit(rows).score(rows))
    return float(np.mean(scores))


def letters(classes: int, k: int, rows: int | None) -> Case:
    """Rows of each class of the letters."""
    data = load("letter")
    x, y = torch.from_numpy(data.x[: data.num_train]).float(), data.labels
    assert y is not None
    own = [x[torch.from_numpy(y[: data.num_train] == c)][:rows] for c in range(classes)]
    # The variance of rounding to integers.
    return Case("letter, by class", own, k, 1 / 12, classes, fit_letters)


def film(pixels: int, frames: int, channels: int, sample: int) -> Case:
    """Made-up pixels of a film: a leaf, the sky behind it, and what passes by."""
    generator = torch.Generator().manual_seed(0)
    colours = 50 + 150 * torch.rand(3, pixels, channels, generator=generator)
    shares = torch.tensor([0.6, 0.33, 0.07]).expand(pixels, 3)
    labels = shares.multinomial(frames, replacement=True, generator=generator).T
    x = colours[labels, torch.arange(pixels)]
    x = x + 4 * torch.randn(x.shape, generator=generator)
    kind = "grey" if channels == 1 else "colour"
    rows = list(x.round().clamp(0, 255).unbind(1))
    return Case(f"pixels, {kind}", rows, 3, 1.0, sample, fit_pixels)


def family(case: Case) -> FullCovariance:
    """Full covariances with what is added to the variances, as in scikit-learn."""
    return FullCovariance(reg_covar=case.reg_covar, relative_floor=0.0)


def fit_letters(case: Case) -> Tensor:
    """By `fit_classifier`: every class from its own rows."""
    x = torch.cat(case.x)
    y = torch.arange(len(case.x)).repeat_interleave(torch.tensor([len(own) for own in case.x]))
    torch.manual_seed(0)
    layer = GMMLayer(x.shape[-1], case.k, family(case), batch_shape=(len(case.x),))
    result = fit_classifier(MixtureClassifier(layer), x, y)
    return torch.tensor([float(one.objective) for one in result.classes.values()])


def fit_pixels(case: Case) -> Tensor:
    """By `fit_em`: a layer with a mixture for every pixel."""
    x = torch.stack(case.x, 1)
    torch.manual_seed(0)
    layer = GMMLayer(x.shape[-1], case.k, family(case), batch_shape=x.shape[1:-1])
    objective = fit_em(layer, x).objective
    assert isinstance(objective, Tensor)
    return objective

"""The default prior against none: log-likelihoods of rows held out, on real data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.machine import threads
from benchmarks.report import Report
from benchmarks.settings import Settings, Skipped
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.datasets import load
from gmm_lightning.initializers import KMeans

FAMILIES = ("full", "diag", "spherical", "tied", "tied_diag", "tied_spherical")


@dataclass(frozen=True)
class Cell:
    """One data set, family, K and number of training rows: means over the splits.

    Attributes:
        none: nats per row without a prior.
        prior: with the default `niw`.
        error: standard error of the mean difference.
        on_floor: share of the fits without a prior that rest on the floor.
    """

    data: str
    family: str
    k: int
    n: int
    d: int
    none: float
    prior: float
    error: float
    on_floor: float

    @property
    def gain(self) -> float:
        """Of the prior, in nats per row."""
        return self.prior - self.none

    @property
    def is_worse(self) -> bool:
        """By more than 0.05 nats per row and two standard errors."""
        return self.gain < -0.05 - 2 * self.error


def run(settings: Settings, report: Report) -> None:
    """A table by family, and every cell in which the prior is worse."""
    splits = settings.runs or settings.pick(20, 4, 1)
    sizes = settings.pick((0.3, 1, 3, 10, 30, 100), (0.3, 1, 3, 10, 30, 100), (3,))
    counts = settings.pick((1, 3, 10), (1, 3, 10), (2,))
    data = settings.pick(data_sets(), data_sets(), {"faithful": data_sets()["faithful"]})
    with threads(1):
        cells = [
            cell
            for name, x in data.items()
            for per_feature in sizes
            for k in counts
            for family in FAMILIES
            if (cell := one_cell(name, x, family, k, per_feature, splits)) is not None
        ]
    table = report.table(
        f"Default niw against no prior, {len(data)} data sets, K = {', '.join(map(str, counts))}, "
        f"{sizes[0]} to {sizes[-1]} rows per feature, {splits} splits (nats per row held out)",
        *(
            "family",
            "cells",
            "mean gain",
            "median gain",
            "worse",
            "cells on the floor",
            "their median",
        ),
    )
    for family in FAMILIES:
        own = [cell for cell in cells if cell.family == family]
        free = torch.tensor([cell.gain for cell in own if cell.on_floor == 0])
        held = torch.tensor([cell.gain for cell in own if cell.on_floor > 0])
        worse = sum(cell.is_worse for cell in own if cell.on_floor == 0)
        table.row(
            *(family, len(free), *summary(free), worse, len(held)),
            summary(held)[1],
            cells=[vars(cell) for cell in own],
        )
    table.note("Where a fit without a prior rests on the floor its likelihood has no bound.")
    for cell in cells:
        if cell.is_worse and cell.on_floor == 0:
            table.note(
                f"worse: {cell.data}, {cell.family}, K = {cell.k}, N = {cell.n}: {cell.none:.2f} "
                f"without, {cell.prior:.2f} with the prior"
            )


def summary(gains: Tensor) -> tuple[float | None, float | None]:
    """Mean and median."""
    return (float(gains.mean()), float(gains.median())) if len(gains) else (None, None)


def one_cell(
    name: str, x: Tensor, family: str, k: int, per_feature: float, splits: int
) -> Cell | None:
    """Both fits of each split from the same start; None: too few rows."""
    total, d = x.shape
    n = int(min(round(per_feature * d), 2 * total / 3, 3000))
    if n < max(2 * k, 5) or (n < round(per_feature * d) and per_feature > 30):
        return None
    found = []
    for split in range(splits):
        order = torch.randperm(total, generator=Generator().manual_seed(split))
        train, test = x[order[:n]], x[order[n : n + 2000]]
        start = labels(train, k, split)
        found.append([held_out(train, test, family, k, start, prior) for prior in (None, "niw")])
    scores = torch.tensor([[score for score, _ in pair] for pair in found], dtype=torch.float64)
    gain = scores[:, 1] - scores[:, 0]
    error = float(gain.std()) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    on_floor = sum(floored for (_, floored), _ in found) / len(found)
    none, prior = scores.mean(0).tolist()
    return Cell(name, family, k, n, d, none, prior, error, on_floor)


def held_out(
    train: Tensor, test: Tensor, family: str, k: int, start: Tensor, prior: str | None
) -> tuple[float, bool]:
    """Mean log-likelihood of the test rows, and whether a component is at the floor."""
    layer = GMMLayer(train.shape[1], k, family, prior, dtype=torch.float64)
    result = fit_em(layer, train, initializer=start, max_iter=200, tol=1e-4)
    with torch.no_grad():
        score = float(layer(test).mean())
    return score, any(event.action == "floored" for event in result.events)


def labels(x: Tensor, k: int, seed: int) -> Tensor:
    """k-means of standardised rows."""
    z = (x - x.mean(0)) / x.std(0).clamp(min=1e-12)
    weight = torch.ones(len(x), dtype=x.dtype)
    return KMeans().assign(z, k, weight, Generator().manual_seed(seed))


def data_sets() -> dict[str, Tensor]:
    """Real data in standard units, by name."""
    try:
        datasets: Any = import_module("sklearn.datasets")
    except ImportError:
        raise Skipped("scikit-learn is not installed") from None
    digits = standard(datasets.load_digits().data)
    axes = torch.linalg.svd(digits, full_matrices=False).Vh[:10]
    found: dict[str, Any] = {
        name: getattr(datasets, f"load_{name}")().data
        for name in ("iris", "wine", "breast_cancer", "diabetes")
    }
    ours = ("thyroid_gland", "faithful", "penguins", "letter", "satellite")
    found |= {name: load(name).x for name in ours}
    return {name: standard(x) for name, x in found.items()} | {"digits, 10 axes": digits @ axes.mT}


def standard(x: Any) -> Tensor:
    """Rows in standard units."""
    x = torch.as_tensor(x).double()
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-9)

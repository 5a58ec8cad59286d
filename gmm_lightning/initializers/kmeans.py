"""Lloyd's algorithm from k-means++ seeds."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.initializers._distances import DistanceTable
from gmm_lightning.initializers._rows import FAR_SHARE, is_near
from gmm_lightning.initializers.base import LabelInitializer
from gmm_lightning.initializers.kmeans_plus_plus import kmeans_plus_plus_seeds
from gmm_lightning.statistics import WeightedMoments


def lloyd(rows: DistanceTable, centres: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Labels `(R, N)` and weighted sums of squared distances `(R,)` by Lloyd's iterations.

    They start from centres `(R, K, D)`. A start has converged, and is left out of further
    iterations, when no row changes its cluster, or when the squared movement of its centres,
    summed over them, is at most `tol` times the mean variance of the features.
    """
    labels, distance = rows.nearest(centres)
    active = torch.arange(len(centres), device=centres.device)
    sums = rows.sums(labels, centres.shape[1])
    limit = tol * WeightedMoments.of(rows.x, rows.weight).variance.mean()
    for _ in range(max_iter):
        moved = _means(rows, centres, sums, distance[active])
        shift = (moved - centres).square().sum((-2, -1))
        before = labels[active]
        labels[active], distance[active] = after, _ = rows.nearest(moved)
        moving = ((after != before).any(-1) & (shift > limit)).nonzero().squeeze(-1)
        if not len(moving):
            break
        active, centres, sums = active[moving], moved[moving], sums[moving]
        if rows.unweighted:
            # Counts stay exact. Sums of unequal weights might cancel, and are recomputed.
            rows.update_sums(sums, before[moving], after[moving])
        else:
            sums = rows.sums(after[moving], centres.shape[1])
    return labels, (distance * rows.weight).sum(-1)


def _means(rows: DistanceTable, centres: Tensor, sums: Tensor, distance: Tensor) -> Tensor:
    """Means of the clusters; one without rows starts again at the row with the largest error."""
    mass = sums[..., -1:]
    means = torch.where(mass > 0, sums[..., :-1] / mass, centres)
    empty = mass.squeeze(-1) <= 0
    for start in empty.any(-1).nonzero().squeeze(-1).tolist():
        worst = (rows.weight * distance[start]).topk(int(empty[start].sum())).indices
        means[start, empty[start]] = rows.x[worst]
    return means


class KMeans(LabelInitializer):
    """Assigns each row to its k-means cluster, in standard units.

    Args:
        max_iter: largest number of iterations.
        tol: stop when the centres' squared movement, relative to the mean variance, is at most
            this (scikit-learn's convention).
        num_starts: number of runs from different seeds, of which the one with the smallest
            weighted sum of squared distances is kept.
        whiten: whether distances are taken after the rows are made uncorrelated.

    References:
        S. P. Lloyd (1982), Least squares quantization in PCM, IEEE Transactions on Information
        Theory 28.
    """

    name: ClassVar[str] = "kmeans"

    def __init__(
        self, max_iter: int = 100, tol: float = 1e-4, num_starts: int = 1, *, whiten: bool = False
    ) -> None:
        self.max_iter = require_integer("max_iter of kmeans", max_iter, least=0)
        self.tol = require_number("tol of kmeans", tol, least=0)
        self.num_starts = require_integer("num_starts of kmeans", num_starts, least=1)
        self.whiten = whiten

    def labels(
        self, rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        if self.whiten:
            rows = DistanceTable(_whitened(rows.x, rows.weight), rows.weight)
        runs = num_starts * self.num_starts
        seeds = kmeans_plus_plus_seeds(rows, num_components, runs, generator)
        # Labels of the runs of a chunk take half of its memory.
        chunks = seeds.split(rows_per_chunk(2 * len(rows), rows.weight, in_cache=False))
        labels, inertia = zip(
            *(lloyd(rows, part, self.max_iter, self.tol) for part in chunks), strict=True
        )
        best = torch.cat(inertia).view(num_starts, self.num_starts).argmin(-1)
        best += self.num_starts * torch.arange(num_starts, device=best.device)
        return self._without_stray_rows(torch.cat(labels)[best], rows, num_components)

    def _without_stray_rows(
        self, labels: Tensor, rows: DistanceTable, num_components: int
    ) -> Tensor:
        """Labels `(R, N)` in which no cluster is a handful of rows far away from the others.

        Starts with a cluster of less than half a percent of the weight find their clusters once
        more, without the half percent of the rows that is furthest from the other centres.
        """
        spare = FAR_SHARE * rows.weight.sum()
        for start, own in enumerate(labels):
            sums = rows.sums(own.unsqueeze(0), num_components)[0]
            stray = (sums[:, -1] > 0) & (sums[:, -1] < spare)
            if not bool(stray.any()) or bool(stray.all()):
                continue
            kept = sums[~stray & (sums[:, -1] > 0)]
            distance = rows.nearest((kept[:, :-1] / kept[:, -1:]).unsqueeze(0))[1][0]
            near = is_near(distance, rows.weight)
            if int(near.sum()) < num_components:
                continue
            some = DistanceTable(rows.x[near], rows.weight[near])
            # Seeds of its own: the other starts draw what they would without it.
            generator = Generator(rows.x.device).manual_seed(0)
            seeds = kmeans_plus_plus_seeds(some, num_components, 1, generator)
            found = lloyd(some, seeds, self.max_iter, self.tol)[0]
            sums = some.sums(found, num_components)
            centres = torch.where(sums[..., -1:] > 0, sums[..., :-1] / sums[..., -1:], seeds)
            labels[start] = rows.nearest(centres)[0][0]
        return labels

    def __repr__(self) -> str:
        numbers = f"max_iter={self.max_iter}, tol={self.tol}, num_starts={self.num_starts}"
        return f"KMeans({numbers}, whiten={self.whiten})"


def _whitened(x: Tensor, weight: Tensor) -> Tensor:
    """Rows in the axes of their covariance, each in units of its deviation."""
    share = (weight / weight.sum()).unsqueeze(-1)
    values, vectors = torch.linalg.eigh((share * x).mT @ x)
    least = torch.finfo(x.dtype).eps * len(values) * values[-1].clamp(min=1e-300)
    return x @ (vectors[:, values > least] / values[values > least].sqrt())

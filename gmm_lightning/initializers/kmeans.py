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


def lloyd(rows: DistanceTable, centres: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Labels `(S, N)` and weighted sums of squared distances `(S,)` by Lloyd's iterations.

    They start from centres `(S, K, D)`. A start has converged, and is left out of further
    iterations, when no row changes its cluster, or when the squared movement of its centres,
    summed over them, is at most `tol` times the mean variance of the features.
    """
    weight = rows.weight
    labels, distance = rows.nearest(centres)
    active = torch.arange(len(centres), device=centres.device)
    sums, limit = rows.sums(labels, centres.shape[1]), tol * rows.mean_variance()
    before, error = labels.clone(), distance
    for _ in range(max_iter):
        moved = _means(rows, centres, sums, error)
        shift = (moved - centres).square().sum((-2, -1))
        after, error = rows.nearest(moved)
        labels[active], distance[active] = after, error
        moving = ((after != before).any(-1) & (shift > limit)).nonzero().squeeze(-1)
        if not len(moving):
            break
        rows, active, centres, sums = (
            rows.select(moving),
            active[moving],
            moved[moving],
            sums[moving],
        )
        before, after, error, limit = before[moving], after[moving], error[moving], limit[moving]
        if rows.unweighted:
            # Counts stay exact. Sums of unequal weights might cancel, and are recomputed.
            rows.update_sums(sums, before, after)
        else:
            sums = rows.sums(after, centres.shape[1])
        before = after
    return labels, (distance * weight).sum(-1)


def _means(rows: DistanceTable, centres: Tensor, sums: Tensor, distance: Tensor) -> Tensor:
    """Means of the clusters; those without rows start again at the rows with the largest errors."""
    mass = sums[..., -1:]
    means = torch.where(mass > 0, sums[..., :-1] / mass, centres)
    empty = mass.squeeze(-1) <= 0
    some = empty.any(-1).nonzero().squeeze(-1)
    if len(some):
        own, empty = rows.select(some), empty[some]
        rank = empty.cumsum(-1) - 1
        worst = (own.weight * distance[some]).topk(int(rank.max()) + 1).indices
        restarted = own.at(worst.gather(-1, rank.clamp(min=0)))
        means[some] = torch.where(empty.unsqueeze(-1), restarted, means[some])
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
        size = rows_per_chunk(2 * rows.num_rows, rows.weight, in_cache=False)
        labels, inertia = list[Tensor](), list[Tensor]()
        for some in rows.starts(runs, size):
            found, cost = lloyd(some, seeds[: len(some)], self.max_iter, self.tol)
            seeds = seeds[len(some) :]
            labels.append(found)
            inertia.append(cost)
        best = torch.cat(inertia).view(-1, self.num_starts).argmin(-1)
        best += self.num_starts * torch.arange(len(best), device=best.device)
        chosen = torch.cat(labels)[best]
        return self._without_stray_rows(chosen, rows.repeated(num_starts), num_components)

    def _without_stray_rows(
        self, labels: Tensor, rows: DistanceTable, num_components: int
    ) -> Tensor:
        """Labels `(S, N)` in which no cluster is a handful of rows far away from the others.

        Starts with a cluster of less than half a percent of the weight find their clusters once
        more, without the half percent of the rows that is furthest from the other centres.
        """
        sums = rows.sums(labels, num_components)
        mass = sums[..., -1]
        stray = (mass > 0) & (mass < FAR_SHARE * rows.weight.sum(-1, keepdim=True))
        for start in (stray.any(-1) & ~stray.all(-1)).nonzero().squeeze(-1).tolist():
            own = rows.one(start)
            kept = sums[start, ~stray[start] & (mass[start] > 0)]
            distance = own.nearest((kept[:, :-1] / kept[:, -1:]).unsqueeze(0))[1][0]
            near = is_near(distance, own.weight[0]) & (own.weight[0] > 0)
            if int(near.sum()) < num_components:
                continue
            some = DistanceTable(own.x[:, near], own.weight[:, near])
            # Seeds of its own: the other starts draw what they would without it.
            generator = Generator(rows.x.device).manual_seed(0)
            seeds = kmeans_plus_plus_seeds(some, num_components, 1, generator)
            found = lloyd(some, seeds, self.max_iter, self.tol)[0]
            again = some.sums(found, num_components)
            centres = torch.where(again[..., -1:] > 0, again[..., :-1] / again[..., -1:], seeds)
            labels[start] = own.nearest(centres)[0][0]
        return labels

    def __repr__(self) -> str:
        numbers = f"max_iter={self.max_iter}, tol={self.tol}, num_starts={self.num_starts}"
        return f"KMeans({numbers}, whiten={self.whiten})"


def _whitened(x: Tensor, weight: Tensor) -> Tensor:
    """Rows `(S, N, D)` in the axes of their covariance, each in units of its deviation, or 0."""
    share = (weight / weight.sum(-1, keepdim=True)).unsqueeze(-1)
    values, vectors = torch.linalg.eigh((share * x).mT @ x)
    least = torch.finfo(x.dtype).eps * x.shape[-1] * values[:, -1:].clamp(min=1e-300)
    unit = torch.where(values > least, values.rsqrt(), 0.0)
    return x @ (vectors * unit.unsqueeze(-2))

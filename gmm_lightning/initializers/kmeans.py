"""Lloyd's algorithm from k-means++ seeds."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.initializers._rows import Rows
from gmm_lightning.initializers.base import LabelInitializer
from gmm_lightning.initializers.kmeans_plus_plus import plus_plus_centres

# Labels of starts that move together: 16 MiB of them.
TOGETHER = 1 << 21


def lloyd(rows: Rows, centres: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Move centres `(R, K, D)` to the means of their rows until they rest, all starts at once.

    A start rests when no row changes its cluster, or when the squared movement of its centres,
    summed over them, is at most `tol` times the mean variance of the features. Starts that rest
    are left out of the passes that others still need.

    Returns:
        Labels `(R, N)` and the weighted sum of squared distances `(R,)`.
    """
    labels, distance = rows.nearest(centres)
    active = torch.arange(len(centres), device=centres.device)
    sums = rows.sums(labels, centres.shape[1])
    limit = tol * rows.mean_variance()
    for _ in range(max_iter):
        moved = _means(rows, centres, sums, distance[active])
        shift = (moved - centres).square().sum((-2, -1))
        before = labels[active]
        labels[active], distance[active] = after, _ = rows.nearest(moved)
        going = ((after != before).any(-1) & (shift > limit)).nonzero().squeeze(-1)
        if not len(going):
            break
        active, centres, sums = active[going], moved[going], sums[going]
        if rows.unweighted:
            # Counts stay exact. Sums of unequal weights are not taken apart again: they may cancel.
            rows.transfer(sums, before[going], after[going])
        else:
            sums = rows.sums(after[going], centres.shape[1])
    return labels, (distance * rows.weight).sum(-1)


def _means(rows: Rows, centres: Tensor, sums: Tensor, distance: Tensor) -> Tensor:
    """Means of the clusters; one without rows starts again at the rows that are served worst."""
    mass = sums[..., -1:]
    means = torch.where(mass > 0, sums[..., :-1] / mass, centres)
    lost = mass.squeeze(-1) <= 0
    for start in lost.any(-1).nonzero().squeeze(-1).tolist():
        worst = (rows.weight * distance[start]).topk(int(lost[start].sum())).indices
        means[start, lost[start]] = rows.x[worst]
    return means


class KMeans(LabelInitializer):
    """Each row belongs to its k-means cluster, in standard units.

    Args:
        max_iter: times that the centres move at most.
        tol: stop when the centres' squared movement, relative to the mean variance, is at most
            this (scikit-learn's convention).
        num_starts: runs from seeds of their own, of which the one with the least weighted sum of
            squared distances is kept.

    References:
        S. P. Lloyd (1982), Least squares quantization in PCM, IEEE Transactions on Information
        Theory 28.
    """

    name: ClassVar[str] = "kmeans"

    def __init__(self, max_iter: int = 100, tol: float = 1e-4, num_starts: int = 1) -> None:
        if max_iter < 0 or not tol >= 0:
            raise InvalidArgumentError(
                f"kmeans needs max_iter >= 0 and tol >= 0, got {max_iter} and {tol}"
            )
        if num_starts < 1:
            raise InvalidArgumentError(f"kmeans needs num_starts >= 1, got {num_starts}")
        self.max_iter, self.tol, self.num_starts = max_iter, tol, num_starts

    def labels(
        self, rows: Rows, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        runs = num_starts * self.num_starts
        seeds = plus_plus_centres(rows, num_components, runs, generator)
        some = seeds.split(max(1, TOGETHER // len(rows)))
        labels, inertia = zip(
            *(lloyd(rows, part, self.max_iter, self.tol) for part in some), strict=True
        )
        best = torch.cat(inertia).view(num_starts, self.num_starts).argmin(-1)
        best += self.num_starts * torch.arange(num_starts, device=best.device)
        return torch.cat(labels)[best]

    def __repr__(self) -> str:
        return f"KMeans(max_iter={self.max_iter}, tol={self.tol}, num_starts={self.num_starts})"

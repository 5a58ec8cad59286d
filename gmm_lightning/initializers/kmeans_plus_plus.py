"""Seeds far from each other, at random."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers._rows import Rows
from gmm_lightning.initializers.base import LabelInitializer

# Distances to the candidates of starts that are seeded together: 32 MiB of float64.
TOGETHER = 1 << 22


def plus_plus_centres(
    rows: Rows, num_components: int, num_starts: int, generator: Generator | None
) -> Tensor:
    """K rows for every start, `(R, K, D)`.

    Each is drawn by its weight times the squared distance to the nearest one before. Of
    `2 + log K` candidates for each seed the one that lowers the potential most is kept.
    """
    shape = (num_components, 2 + int(math.log(num_components)))
    made = {"dtype": rows.weight.dtype, "device": rows.weight.device}
    luck = torch.stack([torch.rand(shape, **made, generator=generator) for _ in range(num_starts)])
    together = max(1, TOGETHER // (shape[1] * len(rows)))
    return torch.cat([_greedy(rows, part) for part in luck.split(together)])


def _greedy(rows: Rows, luck: Tensor) -> Tensor:
    """Seeds `(R, K, D)` from numbers in [0, 1) `(R, K, candidates)`."""
    num_starts, num_components, _ = luck.shape
    every = torch.arange(num_starts, device=luck.device)
    weight = rows.weight.expand(num_starts, -1)
    seeds = [rows.x[_draw(weight, luck[:, 0, :1], rows.weight)].squeeze(1)]
    distance = rows.distances(seeds[0].unsqueeze(1)).squeeze(1)
    closer = None
    for step in range(1, num_components):
        potential = (weight * distance).clamp_(min=0)
        trial = rows.x[_draw(potential, luck[:, step], rows.weight)]
        closer = rows.distances(trial, closer)
        torch.minimum(closer, distance.unsqueeze(1), out=closer)
        best = torch.bmm(closer, weight.unsqueeze(-1)).squeeze(-1).argmin(-1)
        distance = closer[every, best]
        seeds.append(trial[every, best])
    return torch.stack(seeds, 1)


def _draw(probability: Tensor, luck: Tensor, weight: Tensor) -> Tensor:
    """Indices `(R, L)` drawn independently by unnormalised probabilities `(R, N)`.

    Where all are zero, every row lies on a seed: fewer distinct rows than components. The
    weight decides.
    """
    cumulated = probability.cumsum(-1)
    empty = cumulated[:, -1] <= 0
    if bool(empty.any()):
        cumulated[empty] = weight.cumsum(-1)
    threshold = luck * cumulated[:, -1:]
    return torch.searchsorted(cumulated, threshold, right=True).clamp_(max=len(weight) - 1)


class KMeansPlusPlus(LabelInitializer):
    """Each row belongs to the nearest of K seeds drawn by k-means++.

    References:
        D. Arthur, S. Vassilvitskii (2007), k-means++: the advantages of careful seeding, SODA.
    """

    name: ClassVar[str] = "kmeans_plus_plus"
    aliases: ClassVar[tuple[str, ...]] = ("kmeans++",)

    def labels(
        self, rows: Rows, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        return rows.nearest(plus_plus_centres(rows, num_components, num_starts, generator))[0]

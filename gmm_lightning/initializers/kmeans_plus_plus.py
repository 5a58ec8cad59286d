"""k-means++: random seeds that are far from each other."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.initializers._distances import DistanceTable
from gmm_lightning.initializers.base import LabelInitializer


def kmeans_plus_plus_seeds(
    rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
) -> Tensor:
    """Seeds of every start, `(R, K, D)`, rows of the data.

    Each is drawn by its weight times the squared distance to the nearest earlier one. Of
    `2 + log K` candidates for each seed, the one that lowers the potential most is kept.
    """
    shape = (num_components, 2 + int(math.log(num_components)))
    uniforms = torch.stack(
        [rows.weight.new_empty(shape).uniform_(generator=generator) for _ in range(num_starts)]
    )
    starts = rows_per_chunk(shape[1] * len(rows), rows.weight, in_cache=False)
    return torch.cat([_greedy(rows, part) for part in uniforms.split(starts)])


def _greedy(rows: DistanceTable, uniforms: Tensor) -> Tensor:
    """Seeds `(R, K, D)` from uniform numbers `(R, K, candidates)`."""
    num_starts, num_components, _ = uniforms.shape
    every = torch.arange(num_starts, device=uniforms.device)
    weight = rows.weight.expand(num_starts, -1)
    seeds = [rows.x[_draw(weight, uniforms[:, 0, :1], rows.weight)].squeeze(1)]
    distance = rows.distances(seeds[0].unsqueeze(1)).squeeze(1)
    closer = None
    for step in range(1, num_components):
        potential = (weight * distance).clamp_(min=0)
        trial = rows.x[_draw(potential, uniforms[:, step], rows.weight)]
        closer = rows.distances(trial, closer)
        torch.minimum(closer, distance.unsqueeze(1), out=closer)
        best = torch.bmm(closer, weight.unsqueeze(-1)).squeeze(-1).argmin(-1)
        distance = closer[every, best]
        seeds.append(trial[every, best])
    return torch.stack(seeds, 1)


def _draw(probability: Tensor, uniforms: Tensor, weight: Tensor) -> Tensor:
    """Indices `(R, L)` drawn independently by unnormalised probabilities `(R, N)`.

    Where all are zero, every row lies on a seed, and rows are drawn by weight.
    """
    cumulated = probability.cumsum(-1)
    empty = cumulated[:, -1] <= 0
    if bool(empty.any()):
        cumulated[empty] = weight.cumsum(-1)
    threshold = uniforms * cumulated[:, -1:]
    return torch.searchsorted(cumulated, threshold, right=True).clamp_(max=len(weight) - 1)


class KMeansPlusPlus(LabelInitializer):
    """Assigns each row to the nearest of K seeds drawn by k-means++.

    References:
        D. Arthur, S. Vassilvitskii (2007), k-means++: the advantages of careful seeding, SODA.
    """

    name: ClassVar[str] = "kmeans_plus_plus"
    aliases: ClassVar[tuple[str, ...]] = ("kmeans++",)

    def labels(
        self, rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        return rows.nearest(kmeans_plus_plus_seeds(rows, num_components, num_starts, generator))[0]

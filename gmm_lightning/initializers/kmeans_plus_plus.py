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
    """Seeds of R starts of each of S sets of rows, one after another, `(S R, K, D)`.

    Each is drawn by its weight times the squared distance to the nearest earlier one. Of
    `2 + log K` candidates for each seed, the one that lowers the potential most is kept.
    """
    shape, runs = (num_components, 2 + int(math.log(num_components))), len(rows) * num_starts
    uniforms = torch.stack(
        [rows.weight.new_empty(shape).uniform_(generator=generator) for _ in range(runs)]
    )
    size = rows_per_chunk(shape[1] * rows.num_rows, rows.weight, in_cache=False)
    seeds = list[Tensor]()
    for some in rows.starts(num_starts, size):
        seeds.append(_greedy(some, uniforms[: len(some)]))
        uniforms = uniforms[len(some) :]
    return torch.cat(seeds)


def _greedy(rows: DistanceTable, uniforms: Tensor) -> Tensor:
    """Seeds `(S, K, D)` from uniform numbers `(S, K, candidates)`."""
    every = torch.arange(len(rows), device=uniforms.device)
    seeds = [rows.at(_draw(rows, rows.weight, uniforms[:, 0, :1])).squeeze(1)]
    distance = rows.distances(seeds[0].unsqueeze(1)).squeeze(1)
    closer = None
    for step in range(1, uniforms.shape[1]):
        potential = (rows.weight * distance).clamp_(min=0)
        trial = rows.at(_draw(rows, potential, uniforms[:, step]))
        closer = rows.distances(trial, closer)
        torch.minimum(closer, distance.unsqueeze(1), out=closer)
        best = torch.bmm(closer, rows.weight.unsqueeze(-1)).squeeze(-1).argmin(-1)
        distance = closer[every, best]
        seeds.append(trial[every, best])
    return torch.stack(seeds, 1)


def _draw(rows: DistanceTable, probability: Tensor, uniforms: Tensor) -> Tensor:
    """Indices `(S, L)` drawn independently by unnormalised probabilities `(S, N)`.

    Where all are zero, every row lies on a seed, and rows are drawn by weight.
    """
    cumulated = probability.cumsum(-1)
    empty = cumulated[:, -1] <= 0
    if bool(empty.any()):
        cumulated[empty] = rows.weight[empty].cumsum(-1)
    threshold = uniforms * cumulated[:, -1:]
    drawn = torch.searchsorted(cumulated, threshold, right=True)
    return torch.minimum(drawn, rows.num_weighted.unsqueeze(-1) - 1)


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
        seeds = kmeans_plus_plus_seeds(rows, num_components, num_starts, generator)
        return rows.repeated(num_starts).nearest(seeds)[0]

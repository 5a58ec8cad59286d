"""Seeds that are farthest from each other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers._distances import DistanceTable
from gmm_lightning.initializers.base import LabelInitializer, draw_each


def maxdist_seeds(
    rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
) -> Tensor:
    """Seeds of R starts of each of S sets of rows, one after another, `(S R, K, D)`."""
    seeds = draw_each(rows, 1, num_starts, generator)
    rows = rows.repeated(num_starts)
    missing = (rows.weight <= 0).unsqueeze(1)
    distance = rows.distances(seeds).masked_fill_(missing, -torch.inf)
    latest = torch.empty_like(distance)
    for _ in range(1, num_components):
        farthest = rows.at(distance.argmax(-1))
        seeds = torch.cat([seeds, farthest], 1)
        torch.minimum(distance, rows.distances(farthest, latest), out=distance)
    if num_components > 1:
        others = rows.nearest(seeds[:, 1:])[1].unsqueeze(1).masked_fill(missing, -torch.inf)
        seeds[:, :1] = rows.at(others.argmax(-1))
    return seeds


class MaxDist(LabelInitializer):
    """Assigns each row to the nearest of K seeds, each the row farthest from the earlier ones.

    The first seed is drawn at random and finally replaced by the row farthest from the other
    seeds.

    References:
        T. F. Gonzalez (1985), Clustering to minimize the maximum intercluster distance,
        Theoretical Computer Science 38.
    """

    name: ClassVar[str] = "maxdist"

    def labels(
        self, rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        seeds = maxdist_seeds(rows, num_components, num_starts, generator)
        return rows.repeated(num_starts).nearest(seeds)[0]

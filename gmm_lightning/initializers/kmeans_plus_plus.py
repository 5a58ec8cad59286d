"""Seeds far from each other, at random."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers.base import Initializer, draw_rows, nearest


def plus_plus_centres(
    x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
) -> Tensor:
    """K rows, each drawn by its weight times the squared distance to the nearest one before.

    Of `2 + log K` candidates for each seed the one that lowers the potential most is kept.
    """
    first = draw_rows(weight, 1, generator)
    centres = [x[first]]
    distance = (x - x[first]).square().sum(-1)
    candidates = min(len(x), 2 + int(torch.log(torch.tensor(float(num_components)))))
    for _ in range(1, num_components):
        potential = weight * distance
        if not bool((potential > 0).any()):
            # Every row lies on a seed already: fewer distinct rows than components.
            potential = weight
        trial = x[draw_rows(potential, candidates, generator)]
        closer = torch.stack([torch.minimum(distance, (x - t).square().sum(-1)) for t in trial])
        best = int((closer @ weight).argmin())
        distance = closer[best]
        centres.append(trial[best : best + 1])
    return torch.cat(centres)


class KMeansPlusPlus(Initializer):
    """Each row belongs to the nearest of K seeds drawn by k-means++.

    References:
        D. Arthur, S. Vassilvitskii (2007), k-means++: the advantages of careful seeding, SODA.
    """

    name: ClassVar[str] = "kmeans_plus_plus"
    aliases: ClassVar[tuple[str, ...]] = ("kmeans++",)

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        return nearest(x, plus_plus_centres(x, num_components, weight, generator))[0]

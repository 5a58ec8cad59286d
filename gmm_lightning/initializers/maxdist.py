"""Seeds far from each other, one after the other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers.base import Initializer, draw_rows, nearest


class MaxDist(Initializer):
    """Each row belongs to the nearest of K seeds, every seed the row farthest from those before.

    The first seed is drawn at random and, once the others stand, replaced by the row farthest
    from them.

    References:
        T. F. Gonzalez (1985), Clustering to minimize the maximum intercluster distance,
        Theoretical Computer Science 38.
    """

    name: ClassVar[str] = "maxdist"

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        seeds = draw_rows(weight, 1, generator)
        distance = (x - x[seeds]).square().sum(-1)
        for _ in range(1, num_components):
            farthest = distance.argmax(keepdim=True)
            seeds = torch.cat([seeds, farthest])
            distance = torch.minimum(distance, (x - x[farthest]).square().sum(-1))
        if num_components > 1:
            others = nearest(x, x[seeds[1:]])[1]
            seeds[0] = others.argmax()
        return nearest(x, x[seeds])[0]

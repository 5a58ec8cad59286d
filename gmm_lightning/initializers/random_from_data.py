"""Random rows as seeds."""

from __future__ import annotations

from typing import ClassVar

from torch import Generator, Tensor

from gmm_lightning.initializers.base import Initializer, draw_rows, nearest


class RandomFromData(Initializer):
    """Each row belongs to the nearest of K distinct rows drawn by weight."""

    name: ClassVar[str] = "random_from_data"

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        return nearest(x, x[draw_rows(weight, num_components, generator)])[0]

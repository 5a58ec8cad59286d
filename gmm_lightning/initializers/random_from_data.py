"""Random rows as seeds."""

from __future__ import annotations

from typing import ClassVar

from torch import Generator, Tensor

from gmm_lightning.initializers._distances import DistanceTable
from gmm_lightning.initializers.base import LabelInitializer, draw_each


class RandomFromData(LabelInitializer):
    """Assigns each row to the nearest of K distinct rows drawn by weight."""

    name: ClassVar[str] = "random_from_data"

    def labels(
        self, rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        seeds = draw_each(rows, num_components, num_starts, generator)
        return rows.repeated(num_starts).nearest(seeds)[0]

"""Random rows as seeds."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers._distances import DistanceTable
from gmm_lightning.initializers.base import LabelInitializer, draw_rows


class RandomFromData(LabelInitializer):
    """Assigns each row to the nearest of K distinct rows drawn by weight."""

    name: ClassVar[str] = "random_from_data"

    def labels(
        self, rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        drawn = [draw_rows(rows.weight, num_components, generator) for _ in range(num_starts)]
        return rows.nearest(rows.x[torch.stack(drawn)])[0]

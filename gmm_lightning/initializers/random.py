"""Random responsibilities."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers.base import Initializer

# Responsibilities of one start: 16 MiB of float64.
MOST = 1 << 21


class Random(Initializer):
    """Responsibilities drawn uniformly from the simplex, independently for every row.

    All components start near the whole data set, so EM needs more passes than from seeds. A
    sample of the rows does as well as all of them, for the responsibilities say nothing of x.
    """

    name: ClassVar[str] = "random"

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        draws = torch.empty(len(x), num_components, dtype=x.dtype, device=x.device)
        draws.exponential_(generator=generator)
        return draws.div_(draws.sum(-1, keepdim=True))

    def max_rows(self, num_components: int) -> int | None:
        return max(num_components, MOST // num_components)

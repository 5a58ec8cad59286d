"""Random responsibilities."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers.base import Initializer

# 16 MiB of float64. A constant, because the drawn rows depend on it.
_MAX_RESPONSIBILITIES = 1 << 21


class Random(Initializer):
    """Responsibilities drawn uniformly from the simplex, independently for every row.

    All components start near the whole data set: EM needs more iterations than from seeds.
    """

    name: ClassVar[str] = "random"

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        draws = torch.empty(len(x), num_components, dtype=x.dtype, device=x.device)
        draws.exponential_(generator=generator)
        return draws.div_(draws.sum(-1, keepdim=True))

    def max_rows(self, num_components: int) -> int | None:
        return max(num_components, _MAX_RESPONSIBILITIES // num_components)

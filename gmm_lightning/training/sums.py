"""A weighted mean over the batches of a pass and over all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning.linalg import accumulator_dtype


class RunningMean:
    """Sums of `w_n log p(x_n)` and of `w_n`, kept as tensors so that no batch waits for them.

    Example:
        >>> mean = RunningMean()
        >>> mean.add(torch.tensor([-1.0, -4.0]), torch.tensor([2.0, 1.0]))
        >>> mean.sums[0].tolist()
        [-6.0, 3.0]
    """

    def __init__(self) -> None:
        self.sums: list[Tensor] = []

    def add(self, log_prob: Tensor, weight: Tensor | None) -> None:
        """One batch: `(n,)` each."""
        wide = log_prob.detach().to(accumulator_dtype(log_prob.device))
        weight = torch.ones_like(wide) if weight is None else weight.to(wide)
        self.sums.append(torch.stack([(weight * wide).sum(), weight.sum()]))

    def reduced(self, strategy: Any) -> Tensor:
        """The mean over all processes, which must all ask for it; it begins anew."""
        sums = torch.stack(self.sums).sum(0)
        self.sums = []
        total, weight = strategy.reduce(sums, reduce_op="sum")
        return total / torch.where(weight > 0, weight, 1.0)

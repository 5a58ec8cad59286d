"""Batches as slices: exact shards for EM, seeded permutations for gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Rows of one step.

    Attributes:
        x: this process's rows `(n, D)`; n may be 0.
        global_rows: rows of the step over all processes.
    """

    x: Tensor
    global_rows: int


def shard(num_rows: int, rank: int, world_size: int) -> range:
    """The contiguous part of `range(num_rows)` that one process reads: every row exactly once."""
    return range(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)


class SliceLoader:
    """Re-iterable batches of one process, the same number on every process.

    In order, a process reads its shard in views of `batch_size` rows; the trailing ones may be
    empty, because Lightning synchronises before every batch and unequal counts would hang.
    Shuffled, `batch_size` rows of a permutation drawn from `(seed, epoch)` make one step and
    every process takes its shard of them: the steps do not depend on the number of processes.

    Args:
        x: all rows, `(N, D)`.
        batch_size: rows at a time (shuffled: over all processes).
        rank: this process.
        world_size: number of processes.
        epoch: for a shuffled loader, what tells the epoch; None: in order.
        seed: of the permutations.
    """

    def __init__(
        self,
        x: Tensor,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] | None = None,
        seed: int = 0,
    ) -> None:
        self.x, self.batch_size = x, batch_size
        self.rank, self.world_size = rank, world_size
        self.epoch, self.seed = epoch, seed

    def __len__(self) -> int:
        per_process = len(self.x) if self.epoch else math.ceil(len(self.x) / self.world_size)
        return math.ceil(per_process / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._in_order() if self.epoch is None else self._shuffled(self.epoch)

    def _in_order(self) -> Iterator[Batch]:
        shards = [shard(len(self.x), rank, self.world_size) for rank in range(self.world_size)]
        own = self.x[shards[self.rank].start : shards[self.rank].stop]
        for step in range(len(self)):
            lo, hi = step * self.batch_size, (step + 1) * self.batch_size
            together = sum(max(0, min(hi, len(part)) - lo) for part in shards)
            yield Batch(own[lo:hi], together)

    def _shuffled(self, current_epoch: Callable[[], int]) -> Iterator[Batch]:
        # Asked with the first batch: when a fit resumes, Lightning makes the iterator while the
        # epoch still is the one before.
        epoch = current_epoch()
        # Two streams of one generator family: (seed, epoch) never meet by addition.
        seed = torch.Generator().manual_seed(self.seed)
        stream = int(torch.randint(2**62, (epoch + 1,), generator=seed)[epoch])
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(stream))
        for step in order.split(self.batch_size):
            part = shard(len(step), self.rank, self.world_size)
            yield Batch(self.x[step[part.start : part.stop]], len(step))

"""Batches as slices: exact shards for EM, seeded permutations for gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Rows of one step.

    Attributes:
        x: this process's rows `(n, D)`; n may be 0.
        global_rows: rows of the step over all processes.
        weight: `(n,)`, or None where every row counts once.
    """

    x: Tensor
    global_rows: int
    weight: Tensor | None = None


def as_batch(batch: Any, world_size: int) -> Batch:
    """What any loader yields as a batch; of a sequence, the first entry is the rows."""
    if isinstance(batch, Batch):
        return batch
    x = batch[0] if isinstance(batch, list | tuple) else batch
    return Batch(x, len(x) * world_size)


def shard(num_rows: int, rank: int, world_size: int) -> range:
    """The contiguous part of `range(num_rows)` that one process reads: every row exactly once."""
    return range(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)


def num_steps(num_rows: int, batch_size: int, world_size: int) -> int:
    """Batches of the longest shard, and so of every process."""
    return math.ceil(math.ceil(num_rows / world_size) / batch_size)


def rows_together(num_rows: int, batch_size: int, world_size: int) -> Iterator[int]:
    """Rows that all processes hold in each step, when every one reads its shard in order."""
    lengths = [len(shard(num_rows, rank, world_size)) for rank in range(world_size)]
    for low in range(0, num_steps(num_rows, batch_size, world_size) * batch_size, batch_size):
        yield sum(min(max(length - low, 0), batch_size) for length in lengths)


def stream_of(seed: int, epoch: int) -> torch.Generator:
    """A source of randomness for one epoch: no two pairs (seed, epoch) meet by addition."""
    draws = torch.randint(2**62, (epoch + 1,), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(int(draws[epoch]))


class SliceLoader:
    """Re-iterable batches of one process, the same number on every process.

    In order, a process reads its shard in views of `batch_size` rows; the trailing ones may be
    empty, because Lightning synchronises before every batch and unequal counts would hang.
    Shuffled, `batch_size` rows of a permutation drawn from `(seed, epoch)` make one step and
    every process takes its shard of them: the steps do not depend on the number of processes.

    Args:
        x: all rows, `(N, D)`.
        batch_size: rows at a time (shuffled: over all processes).
        weight: of the rows, `(N,)`.
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
        weight: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] | None = None,
        seed: int = 0,
    ) -> None:
        self.x, self.weight, self.batch_size = x, weight, batch_size
        self.rank, self.world_size = rank, world_size
        self.epoch, self.seed = epoch, seed

    def __len__(self) -> int:
        return num_steps(len(self.x), self.batch_size, 1 if self.epoch else self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._in_order() if self.epoch is None else self._shuffled(self.epoch)

    def _in_order(self) -> Iterator[Batch]:
        own = shard(len(self.x), self.rank, self.world_size)
        together = rows_together(len(self.x), self.batch_size, self.world_size)
        for step, global_rows in enumerate(together):
            low = own.start + step * self.batch_size
            yield self._batch(slice(low, min(low + self.batch_size, own.stop)), global_rows)

    def _shuffled(self, current_epoch: Callable[[], int]) -> Iterator[Batch]:
        # Asked with the first batch: when a fit resumes, Lightning makes the iterator while the
        # epoch still is the one before.
        generator = stream_of(self.seed, current_epoch())
        order = torch.randperm(len(self.x), generator=generator)
        for step in order.split(self.batch_size):
            part = shard(len(step), self.rank, self.world_size)
            yield self._batch(step[part.start : part.stop], len(step))

    def _batch(self, at: slice | Tensor, global_rows: int) -> Batch:
        return Batch(self.x[at], global_rows, None if self.weight is None else self.weight[at])

"""Batches of one process: exact shards for EM, seeded permutations for gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows import BLOCK_ROWS, Batch, RowSource


class RowLoader:
    """Re-iterable batches of one process from a source, the same number on every process.

    In order, a process reads its own shard; the trailing batches may be empty, because Lightning
    synchronises before every batch and unequal counts would hang.

    Shuffled, `batch_size` rows of a permutation drawn from `(seed, epoch)` make one step and
    every process takes its shard of them: the steps do not depend on the number of processes.
    Rows on disk are permuted in blocks of about `BLOCK_ROWS` neighbours, and within each block:
    rows far apart in a file never share a step, so shuffle a sorted file once.

    Args:
        source: all rows.
        batch_size: rows at a time (shuffled: over all processes).
        rank: this process.
        world_size: number of processes.
        epoch: for a shuffled loader, returns the epoch; None: in order.
        seed: of the permutations.
    """

    def __init__(
        self,
        source: RowSource,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] | None = None,
        seed: int = 0,
    ) -> None:
        self.source, self.batch_size = source, batch_size
        self._rank, self._world_size = rank, world_size
        self._epoch, self._seed = epoch, seed

    def __len__(self) -> int:
        # A shuffled block is a whole number of steps, except the last one.
        processes = 1 if self._epoch else self._world_size
        return _num_steps(self.source.num_rows, self.batch_size, processes)

    def __iter__(self) -> Iterator[Batch]:
        return self._in_order() if self._epoch is None else self._shuffled(self._epoch)

    def _in_order(self) -> Iterator[Batch]:
        num_rows = self.source.num_rows
        own = shard(num_rows, self._rank, self._world_size)
        batches = self.source.read(own.start, own.stop, self.batch_size)
        for num_global_rows in _global_batch_sizes(num_rows, self.batch_size, self._world_size):
            batch = next(batches, None)
            if batch is None:
                # No rows, but with all fields that batches of this source have.
                batch = next(self.source.read(0, 1, 1)).at(slice(0, 0))
            yield batch._replace(num_global_rows=num_global_rows)

    def _shuffled(self, current_epoch: Callable[[], int]) -> Iterator[Batch]:
        # Called with the first batch: when a fit resumes, Lightning makes the iterator while the
        # epoch is still the one before.
        generator = _epoch_generator(self._seed, current_epoch())
        num_rows = self.source.num_rows
        size = self.batch_size * max(1, BLOCK_ROWS // self.batch_size)
        starts = torch.arange(0, num_rows, num_rows if self.source.in_memory else size)
        starts = starts[torch.randperm(len(starts), generator=generator)].tolist()
        for block in self.source.read_at(starts, num_rows if self.source.in_memory else size):
            order = torch.randperm(block.num_rows, generator=generator)
            for step in order.split(self.batch_size):
                part = shard(len(step), self._rank, self._world_size)
                batch = block.at(step[part.start : part.stop])
                yield batch._replace(num_global_rows=len(step))


def total_train_weight(trainer: L.Trainer) -> float:
    """Total weight of the training set of a fit, or its number of rows."""
    datamodule = getattr(trainer, "datamodule", None)
    for name in ("total_weight", "num_train_rows"):
        known = getattr(datamodule, name, None)
        if known is not None:
            return known
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if dataset is not None and hasattr(dataset, "__len__"):
        return len(dataset)
    raise InvalidDataError(
        "a prior needs the number of training rows: use ArrayDataModule, or a data module "
        "with the attribute num_train_rows"
    )


def step_weight(batch: Batch, trainer: L.Trainer) -> Tensor | int:
    """Sum of the weights of a step over all processes, or the number of its rows."""
    if batch.weight is None:
        assert batch.num_global_rows is not None
        return max(batch.num_global_rows, 1)
    total = trainer.strategy.reduce(batch.weight.sum(), reduce_op="sum")
    return torch.where(total > 0, total, 1.0)


def shard(num_rows: int, rank: int, world_size: int) -> range:
    """The contiguous part of `range(num_rows)` that one process reads: every row exactly once."""
    return range(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)


def _num_steps(num_rows: int, batch_size: int, world_size: int) -> int:
    """Number of batches of the longest shard, and so of every process."""
    return math.ceil(math.ceil(num_rows / world_size) / batch_size)


def _global_batch_sizes(num_rows: int, batch_size: int, world_size: int) -> Iterator[int]:
    """Rows that all processes hold in each step, when every one reads its shard in order."""
    lengths = [len(shard(num_rows, rank, world_size)) for rank in range(world_size)]
    for low in range(0, _num_steps(num_rows, batch_size, world_size) * batch_size, batch_size):
        yield sum(min(max(length - low, 0), batch_size) for length in lengths)


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator of one epoch: no two pairs (seed, epoch) share one."""
    draws = torch.randint(2**62, (epoch + 1,), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(int(draws[epoch]))

"""Files of any size as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor

from gmm_lightning.datasets import RowBlock, RowStream, open_rows
from gmm_lightning.em.rows import as_tensor
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training.base import RowsDataModule
from gmm_lightning.training.loader import Batch, num_steps, rows_together, shard, stream_of
from gmm_lightning.training.parts import BLOCK, Portion, spacing
from gmm_lightning.training.prefetch import ahead


class StreamPart:
    """A part on disk, read ahead in blocks.

    Args:
        stream: the rows.
        labels: whether labels are read too.
    """

    def __init__(self, stream: RowStream, *, labels: bool = False) -> None:
        self.stream, self.labels = stream, labels

    @property
    def num_rows(self) -> int:
        """N."""
        return self.stream.num_rows

    @property
    def num_features(self) -> int:
        """D."""
        return self.stream.num_features

    @property
    def total_weight(self) -> float:
        """Sum of the weights: N without any."""
        return self.stream.total_weight

    def __iter__(self) -> Iterator[Portion]:
        for block in ahead(self.stream.blocks(rows=BLOCK, labels=self.labels)):
            yield Portion(as_tensor(block.x), tensor(block.weight), tensor(block.labels))

    def some(self, n: int) -> Tensor:
        """At most n rows, evenly spaced."""
        return as_tensor(self.stream.every(spacing(self.num_rows, n)))


class StreamLoader:
    """Re-iterable batches of one process from a stream, the same number on every process.

    In order, a process reads its own shard and nothing else; the trailing batches may be empty.
    Shuffled, blocks of about `BLOCK` neighbouring rows come in an order drawn from
    `(seed, epoch)`, and the rows of each block in an order of their own; `batch_size` of them
    make one step, of which every process takes its shard. So the steps do not depend on the
    number of processes, each of which then reads all blocks. Rows that lie far apart in the file
    never share a step: shuffle a sorted file once, before it is trained on.

    Args:
        stream: all rows.
        batch_size: rows at a time (shuffled: over all processes).
        rank: this process.
        world_size: number of processes.
        epoch: for a shuffled loader, what tells the epoch; None: in order.
        seed: of the permutations.
    """

    def __init__(
        self,
        stream: RowStream,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] | None = None,
        seed: int = 0,
    ) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.rank, self.world_size = rank, world_size
        self.epoch, self.seed = epoch, seed

    def __len__(self) -> int:
        # A shuffled block is a whole number of steps, but for the last one.
        processes = 1 if self.epoch else self.world_size
        return num_steps(self.stream.num_rows, self.batch_size, processes)

    def __iter__(self) -> Iterator[Batch]:
        return self._in_order() if self.epoch is None else self._shuffled(self.epoch)

    def _in_order(self) -> Iterator[Batch]:
        own = shard(self.stream.num_rows, self.rank, self.world_size)
        blocks = ahead(self.stream.blocks(own.start, own.stop, self.batch_size))
        for together in rows_together(self.stream.num_rows, self.batch_size, self.world_size):
            block = next(blocks, None)
            yield self._empty(together) if block is None else batch_of(block, together)

    def _shuffled(self, current_epoch: Callable[[], int]) -> Iterator[Batch]:
        # Asked with the first batch: see SliceLoader.
        generator = stream_of(self.seed, current_epoch())
        size = self.batch_size * max(1, BLOCK // self.batch_size)
        starts = torch.arange(0, self.stream.num_rows, size)
        starts = starts[torch.randperm(len(starts), generator=generator)].tolist()
        for block in ahead(self._block_at(start, size) for start in starts):
            order = torch.randperm(len(block.x), generator=generator)
            for step in order.split(self.batch_size):
                part = shard(len(step), self.rank, self.world_size)
                at = step[part.start : part.stop].numpy()
                weight = None if block.weight is None else block.weight[at]
                yield batch_of(RowBlock(block.x[at], weight, None), len(step))

    def _block_at(self, start: int, size: int) -> RowBlock:
        stop = min(start + size, self.stream.num_rows)
        return next(self.stream.blocks(start, stop, size))

    def _empty(self, together: int) -> Batch:
        x = torch.empty(0, self.stream.num_features, dtype=torch.float64)
        return Batch(x, together, x.new_empty(0) if self.stream.weighted else None)


class StreamDataModule(RowsDataModule):
    r"""Rows of files of any size, of which only a few blocks are in memory.

    Every process reads its own part of the rows, each row exactly once in a pass, and the next
    blocks are read while one is computed with.

    Args:
        path: a file, a folder of shards, or a pattern: see `gmm_lightning.datasets.open_rows`.
        columns: which to read; None: every column of numbers.
        weight: the column of sample weights.
        label: the column of classes, only ever used to judge a fit.
        header: of a text file, whether its first line holds names; None: guess.
        separator: of a text file; None: guess.
        key: the array of a .npz file.
        val_path: a validation set; columns by name.
        test_path: likewise a test set.
        batch_size: rows at a time; shuffled, the rows of one step over all processes.
        shuffle: for gradient descent: blocks in a fresh order every epoch, and rows within each.
        standardize: let the model subtract the mean and divide by the standard deviation.
        seed: of the permutations.

    Raises:
        InvalidArgumentError: no path, or an option that does not fit the file.
        InvalidDataError: a file that cannot be used; a bad row when it is reached.

    Example:
        >>> import tempfile
        >>> from gmm_lightning.training import StreamDataModule
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "trees.csv")
        >>> _ = path.write_text("height,girth\n12.5,0.8\n30,1.1\n11,0.9\n")
        >>> data = StreamDataModule(path, batch_size=2)
        >>> data.num_train_rows, data.columns, [len(b.x) for b in data.train_dataloader()]
        (3, ('height', 'girth'), [2, 1])
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        columns: Sequence[str | int] | str | int | None = None,
        weight: str | int | None = None,
        label: str | int | None = None,
        header: bool | None = None,
        separator: str | None = None,
        key: str | None = None,
        val_path: str | Path | None = None,
        test_path: str | Path | None = None,
        batch_size: int = 65_536,
        shuffle: bool = False,
        standardize: bool = False,
        seed: int = 0,
    ) -> None:
        if path is None or path == "":
            raise InvalidArgumentError(
                "expected the path of a file or a folder to read; on the command line: "
                "data=stream data.path=big.npy"
            )
        super().__init__(
            batch_size=batch_size,
            shuffle=shuffle,
            standardize=standardize,
            seed=seed,
            name=Path(str(path)).stem,
        )
        options = {"weight": weight, "label": label, "header": header}
        options |= {"separator": separator, "key": key}
        self.streams = {"train": open_rows(path, columns=columns, **options)}
        self.columns, self.classes = self.streams["train"].columns, None
        for part, other in (("val", val_path), ("test", test_path)):
            if other is not None and other != "":
                self.streams[part] = open_rows(other, columns=self.columns, **options)
        self._some: dict[int, Tensor] = {}

    def part(self, name: str, *, labels: bool = False) -> StreamPart | None:
        """All rows of `train`, `val` or `test`; None where there is no file for it."""
        stream = self.streams.get(name)
        return None if stream is None else StreamPart(stream, labels=labels)

    def loader(self, name: str, rank: int, world_size: int, *, shuffle: bool) -> StreamLoader:
        """Batches of one process."""
        return StreamLoader(
            self.streams[name],
            self.batch_size,
            rank=rank,
            world_size=world_size,
            epoch=self.epoch if shuffle else None,
            seed=self.seed,
        )

    def some_rows(self, n: int) -> Tensor:
        """At most n rows of the training set, evenly spaced; kept, for every picture asks."""
        if n not in self._some:
            self._some[n] = super().some_rows(n)
        return self._some[n]

    def units(self) -> tuple[Tensor, Tensor]:
        """Weighted mean and standard deviation per feature, by two passes, made once."""
        return self._moments

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return super().units()


def tensor(array: NDArray | None) -> Tensor | None:
    """A tensor over the same memory."""
    return None if array is None else as_tensor(array)


def batch_of(block: RowBlock, together: int) -> Batch:
    """A block as the batch of one process."""
    return Batch(as_tensor(block.x), together, tensor(block.weight))

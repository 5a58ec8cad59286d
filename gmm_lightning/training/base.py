"""What every data module of this package offers, whatever its rows are kept in."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import lightning as L
from torch import Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training.loader import Batch
from gmm_lightning.training.parts import Part, mean_and_deviation


class Loader(Protocol):
    """Batches of one process, the same number on every process."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class RowsDataModule(L.LightningDataModule):
    """Parts called train, val and test, and loaders that shard them exactly over processes.

    Attributes:
        batch_size: rows at a time; shuffled, the rows of one step over all processes.
        shuffle: read a fresh permutation in every epoch, as gradient descent wants.
        standardize: let the model subtract the mean and divide by the standard deviation.
        seed: of the permutations.
        name: what the rows are called in messages and pictures.
        columns: names of the features.
        classes: names of the labels, or None.
    """

    columns: tuple[str, ...]
    classes: tuple[str, ...] | None

    def __init__(
        self, *, batch_size: int, shuffle: bool, standardize: bool, seed: int, name: str
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InvalidArgumentError(f"batch_size must be >= 1, got {batch_size}")
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.standardize, self.name = standardize, name

    @abstractmethod
    def part(self, name: str, *, labels: bool = False) -> Part | None:
        """All rows of `train`, `val` or `test`; None where none were set aside.

        Args:
            name: of the part.
            labels: whether labels are wanted, which may have to be read for it.
        """

    @abstractmethod
    def loader(self, name: str, rank: int, world_size: int, *, shuffle: bool) -> Loader:
        """Batches of one process."""

    def train_blocks(self) -> Part:
        """The whole training set in blocks, readable again and again."""
        part = self.part("train")
        assert part is not None
        return part

    def some_rows(self, n: int) -> Tensor:
        """At most n rows of the training set, evenly spaced, in the user's units."""
        return self.train_blocks().some(n)

    @property
    def num_features(self) -> int:
        """D."""
        return self.train_blocks().num_features

    @property
    def num_train_rows(self) -> int:
        """Rows that a pass over the training set reads, over all processes."""
        return self.train_blocks().num_rows

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the training set: the number of its rows without any."""
        return self.train_blocks().total_weight

    def units(self) -> tuple[Tensor, Tensor]:
        """Weighted mean and standard deviation per feature of the training set, `(D,)` each."""
        return mean_and_deviation(self.train_blocks())

    def train_dataloader(self) -> Loader:
        """This process's part of the training set."""
        return self._own("train", shuffle=self.shuffle)

    def val_dataloader(self) -> Loader | list[Any]:
        """This process's part of the validation set; an empty list without one."""
        if self.part("val") is None:
            # Lightning warns of what is meant here.
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
            return []
        return self._own("val", shuffle=False)

    def predict_dataloader(self) -> Loader:
        """The training set in order."""
        return self._own("train", shuffle=False)

    def _own(self, name: str, *, shuffle: bool) -> Loader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return self.loader(name, rank, world_size, shuffle=shuffle)

    def epoch(self) -> int:
        """The current epoch, for permutations; 0 outside of a fit."""
        return self.trainer.current_epoch if self.trainer else 0

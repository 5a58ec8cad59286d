"""Arrays in memory as a LightningDataModule."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.datasets import load
from gmm_lightning.em.rows import as_tensor, check_finite
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.training.loader import SliceLoader

# Rows that are converted at once where a pass over all of them is needed.
BLOCK = 1 << 16


class ArrayDataModule(L.LightningDataModule):
    """Rows in memory, read as slices, sharded exactly over processes.

    Args:
        x: rows `(N, D)`, a tensor or an array of any real dtype.
        labels: `(N,)`, only ever used to judge a fit.
        val_fraction: share of the rows set aside for validation, drawn by `seed`.
        batch_size: rows at a time; shuffled, the rows of one step over all processes.
        shuffle: read a fresh permutation in every epoch, as gradient descent wants.
        standardize: let the model subtract the mean and divide by the standard deviation.
        seed: of the split and of the permutations.
        columns: names of the features.
        classes: names of the labels.
        name: what the rows are called in messages and pictures.

    Raises:
        InvalidDataError: not a matrix, no rows, non-finite rows (by number), labels that do not
            fit.
        InvalidArgumentError: an option out of range.

    Example:
        >>> from gmm_lightning.training import ArrayDataModule
        >>> data = ArrayDataModule(torch.arange(20.0).reshape(10, 2), val_fraction=0.2)
        >>> data.num_train_rows, data.num_features
        (8, 2)
    """

    def __init__(
        self,
        x: Any,
        *,
        labels: Any = None,
        val_fraction: float = 0.0,
        batch_size: int = 65_536,
        shuffle: bool = False,
        standardize: bool = False,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        name: str = "data",
    ) -> None:
        super().__init__()
        rows = as_tensor(x)
        if rows.dim() != 2:
            hint = "; reshape one feature with x[:, None]" if rows.dim() == 1 else ""
            raise InvalidDataError(
                f"expected a matrix of rows (N, D), got an array of shape {tuple(rows.shape)}{hint}"
            )
        if 0 in rows.shape:
            raise InvalidDataError(f"expected rows, got an array of shape {tuple(rows.shape)}")
        if not 0 <= val_fraction < 1:
            raise InvalidArgumentError(f"val_fraction must be in [0, 1), got {val_fraction}")
        if batch_size < 1:
            raise InvalidArgumentError(f"batch_size must be >= 1, got {batch_size}")
        check_finite(rows)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.standardize, self.name = standardize, name
        self.columns = tuple(columns) if columns else tuple(f"x{i}" for i in range(rows.shape[1]))
        self.classes = tuple(classes) if classes else None
        self.train_rows, self.train_labels = rows, self._checked_labels(labels, len(rows))
        self.val_rows: Tensor | None = None
        if val_fraction > 0:
            self._split(val_fraction)

    @classmethod
    def builtin(cls, name: str, **options: Any) -> Self:
        """One of the built-in real data sets, its standard training part.

        Args:
            name: one of `gmm_lightning.datasets.names()`.
            options: as for the class.
        """
        data = load(name)
        labels = None if data.labels is None else data.labels[: data.num_train]
        return cls(
            data.x[: data.num_train],
            labels=labels,
            columns=data.columns,
            classes=data.classes,
            name=name,
            **options,
        )

    @staticmethod
    def _checked_labels(labels: Any, num_rows: int) -> Tensor | None:
        if labels is None:
            return None
        labels = as_tensor(labels, "labels")
        if labels.shape != (num_rows,):
            raise InvalidDataError(
                f"labels must be of shape ({num_rows},), got shape {tuple(labels.shape)}"
            )
        return labels

    def _split(self, val_fraction: float) -> None:
        rows = self.train_rows
        num_val = round(val_fraction * len(rows))
        if num_val in (0, len(rows)):
            raise InvalidArgumentError(
                f"val_fraction={val_fraction} of {len(rows)} rows leaves no rows on one side"
            )
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
        val, train = order[:num_val].sort().values, order[num_val:].sort().values
        self.val_rows, self.train_rows = rows[val], rows[train]
        if self.train_labels is not None:
            self.train_labels = self.train_labels[train]

    @property
    def num_features(self) -> int:
        """D."""
        return self.train_rows.shape[1]

    @property
    def num_train_rows(self) -> int:
        """Rows that a pass over the training set reads, over all processes."""
        return len(self.train_rows)

    def units(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per feature of the whole training set, `(D,)` each."""
        dtype = accumulator_dtype(self.train_rows.device)
        blocks = self.train_rows.split(BLOCK)
        mean = torch.stack([b.to(dtype).sum(0) for b in blocks]).sum(0) / len(self.train_rows)
        mean = mean + torch.stack([(b.to(dtype) - mean).sum(0) for b in blocks]).sum(0) / len(
            self.train_rows
        )
        square = torch.stack([(b.to(dtype) - mean).square().sum(0) for b in blocks]).sum(0)
        return mean, (square / len(self.train_rows)).sqrt()

    def train_dataloader(self) -> SliceLoader:
        """This process's part of the training set."""
        return self._loader(self.train_rows, shuffle=self.shuffle)

    def val_dataloader(self) -> SliceLoader | list[Any]:
        """This process's part of the validation set; an empty list without one."""
        if self.val_rows is None:
            # Lightning warns of what is meant here.
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
            return []
        return self._loader(self.val_rows, shuffle=False)

    def predict_dataloader(self) -> SliceLoader:
        """The training set in order."""
        return self._loader(self.train_rows, shuffle=False)

    def _loader(self, rows: Tensor, *, shuffle: bool) -> SliceLoader:
        trainer = self.trainer
        return SliceLoader(
            rows,
            self.batch_size,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            epoch=(lambda: trainer.current_epoch if trainer else 0) if shuffle else None,
            seed=self.seed,
        )

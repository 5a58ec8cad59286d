"""Arrays in memory as a LightningDataModule."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.datasets import load
from gmm_lightning.datasets.tables import read_tables
from gmm_lightning.em.rows import as_tensor, check_finite
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.training.loader import SliceLoader
from gmm_lightning.training.split import split_rows

# Rows that are converted at once where a pass over all of them is needed.
BLOCK = 1 << 16


class ArrayDataModule(L.LightningDataModule):
    """Rows in memory, read as slices, sharded exactly over processes.

    Args:
        x: rows `(N, D)`, a tensor or an array of any real dtype.
        labels: `(N,)`, only ever used to judge a fit.
        val_fraction: share of the rows set aside for validation, drawn by `seed`.
        test_fraction: share of the rows set aside and not touched by a fit.
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
        test_fraction: float = 0.0,
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
        if batch_size < 1:
            raise InvalidArgumentError(f"batch_size must be >= 1, got {batch_size}")
        check_finite(rows)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.standardize, self.name = standardize, name
        self.columns = tuple(columns) if columns else tuple(f"x{i}" for i in range(rows.shape[1]))
        self.classes = tuple(classes) if classes else None
        self.train_rows, self.train_labels = rows, self._checked_labels(labels, len(rows))
        self.val_rows: Tensor | None = None
        self.val_labels: Tensor | None = None
        self.test_rows: Tensor | None = None
        self.test_labels: Tensor | None = None
        train, val, test = split_rows(len(rows), val_fraction, test_fraction, seed)
        if len(val):
            self.val_rows, self.val_labels = self._part(val)
        if len(test):
            self.test_rows, self.test_labels = self._part(test)
        if len(train) < len(rows):
            self.train_rows, self.train_labels = self._part(train)

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

    @classmethod
    def file(
        cls,
        path: str | Path | None = None,
        *,
        columns: Sequence[str | int] | str | int | None = None,
        label: str | int | None = None,
        header: bool | None = None,
        separator: str | None = None,
        key: str | None = None,
        val_path: str | Path | None = None,
        test_path: str | Path | None = None,
        **options: Any,
    ) -> Self:
        r"""Rows of a file: .csv, .tsv, .txt, .npy, .npz or .parquet.

        Args:
            path: the training set, and what `val_fraction` and `test_fraction` are taken from.
            columns: which to read, as for `gmm_lightning.datasets.tables.read_table`.
            label: the column of classes.
            header: of a text file, whether its first line holds names; None: guess.
            separator: of a text file; None: guess.
            key: the array of a .npz file.
            val_path: a validation set of its own, in place of `val_fraction`; columns by name.
            test_path: likewise, in place of `test_fraction`.
            options: as for the class.

        Raises:
            InvalidArgumentError: no path, or an option that does not fit the file.
            InvalidDataError: a file that cannot be used; the message says where.

        Example:
            >>> import tempfile
            >>> from gmm_lightning.training import ArrayDataModule
            >>> folder = tempfile.TemporaryDirectory()
            >>> path = Path(folder.name, "trees.csv")
            >>> _ = path.write_text("height,kind\n12.5,oak\n30,fir\n11,oak\n28,fir\n")
            >>> data = ArrayDataModule.file(path, label="kind", test_fraction=0.25)
            >>> data.name, data.columns, data.classes, data.num_train_rows, len(data.test_rows)
            ('trees', ('height',), ('fir', 'oak'), 3, 1)
            >>> folder.cleanup()
        """
        if path in (None, ""):
            raise InvalidArgumentError(
                "expected the path of a file to read; on the command line: data=file "
                "data.path=my.csv"
            )
        beside = {"val": val_path, "test": test_path}
        beside = {part: other for part, other in beside.items() if other not in (None, "")}
        paths = [str(p) for p in (path, *beside.values())]
        how = {"label": label, "header": header, "separator": separator, "key": key}
        train, *others = read_tables(paths, columns=columns, **how)
        options |= {f"{part}_fraction": 0.0 for part in beside}
        data = cls(
            train.x,
            labels=train.labels,
            columns=train.columns,
            classes=train.classes,
            name=train.name,
            **options,
        )
        for part, table in zip(beside, others, strict=True):
            labels = None if table.labels is None else torch.from_numpy(table.labels)
            setattr(data, f"{part}_rows", torch.from_numpy(table.x))
            setattr(data, f"{part}_labels", labels)
        return data

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

    def _part(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        labels = self.train_labels
        return self.train_rows[index], None if labels is None else labels[index]

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

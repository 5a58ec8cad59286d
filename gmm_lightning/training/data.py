"""Arrays in memory as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from gmm_lightning.datasets import load
from gmm_lightning.datasets.tables import read_tables
from gmm_lightning.em.rows import as_tensor, check_finite
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.training.base import RowsDataModule
from gmm_lightning.training.loader import SliceLoader
from gmm_lightning.training.parts import TensorPart
from gmm_lightning.training.split import split_rows
from gmm_lightning.training.weights import checked_weight, require_weight

PARTS = {"train": "training set", "val": "validation set", "test": "test set"}


class ArrayDataModule(RowsDataModule):
    """Rows in memory, read as slices, sharded exactly over processes.

    Args:
        x: rows `(N, D)`, a tensor or an array of any real dtype.
        sample_weight: `(N,)`, finite and not negative: a row of weight 2 counts as two rows, one
            of weight 0 as none. Parts that are set aside keep the weights of their rows.
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
        InvalidDataError: not a matrix, no rows, non-finite rows (by number), labels or weights
            that do not fit.
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
        sample_weight: Any = None,
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
        super().__init__(
            batch_size=batch_size,
            shuffle=shuffle,
            standardize=standardize,
            seed=seed,
            name=name,
        )
        rows = as_tensor(x)
        if rows.dim() != 2:
            hint = "; reshape one feature with x[:, None]" if rows.dim() == 1 else ""
            raise InvalidDataError(
                f"expected a matrix of rows (N, D), got an array of shape {tuple(rows.shape)}{hint}"
            )
        if 0 in rows.shape:
            raise InvalidDataError(f"expected rows, got an array of shape {tuple(rows.shape)}")
        check_finite(rows)
        weight = checked_weight(sample_weight, len(rows))
        self.columns = tuple(columns) if columns else tuple(f"x{i}" for i in range(rows.shape[1]))
        self.classes = tuple(classes) if classes else None
        self.parts: dict[str, TensorPart] = {}
        self.train_rows, self.train_weight = rows, weight
        self.train_labels = self._checked_labels(labels, len(rows))
        self.val_rows: Tensor | None = None
        self.val_weight: Tensor | None = None
        self.val_labels: Tensor | None = None
        self.test_rows: Tensor | None = None
        self.test_weight: Tensor | None = None
        self.test_labels: Tensor | None = None
        whole = TensorPart(rows, weight, self.train_labels)
        split = split_rows(len(rows), val_fraction, test_fraction, seed)
        for part, index in zip(PARTS, split, strict=True):
            if len(index):
                # Without a split nothing is copied.
                self.set_part(part, whole.at(index) if len(index) < len(rows) else whole)

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
        weight: str | int | None = None,
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
            weight: the column of sample weights.
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
        how = {"label": label, "weight": weight, "header": header}
        how |= {"separator": separator, "key": key}
        train, *others = read_tables(paths, columns=columns, **how)
        options |= {f"{part}_fraction": 0.0 for part in beside}
        data = cls(
            train.x,
            sample_weight=train.weight,
            labels=train.labels,
            columns=train.columns,
            classes=train.classes,
            name=train.name,
            **options,
        )
        for part, table in zip(beside, others, strict=True):
            labels = None if table.labels is None else torch.from_numpy(table.labels)
            weights = checked_weight(table.weight, len(table.x))
            data.set_part(part, TensorPart(torch.from_numpy(table.x), weights, labels))
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

    def set_part(self, name: str, part: TensorPart) -> None:
        """Let `train`, `val` or `test` be these rows.

        Raises:
            InvalidDataError: all of their weights are 0.
        """
        require_weight(part.total_weight, PARTS[name])
        self.parts[name] = part
        for field, value in (("rows", part.x), ("weight", part.weight), ("labels", part.labels)):
            setattr(self, f"{name}_{field}", value)

    def part(self, name: str, *, labels: bool = True) -> TensorPart | None:
        """All rows of `train`, `val` or `test`; None where none were set aside."""
        return self.parts.get(name)

    def loader(self, name: str, rank: int, world_size: int, *, shuffle: bool) -> SliceLoader:
        """Views of one process's rows; shuffled, copies of them."""
        part = self.part(name)
        assert part is not None
        return SliceLoader(
            part.x,
            self.batch_size,
            weight=part.weight,
            rank=rank,
            world_size=world_size,
            epoch=self.epoch if shuffle else None,
            seed=self.seed,
        )

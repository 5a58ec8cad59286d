"""Arrays in memory as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Size, Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.datasets import load, read_tables
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import (
    ArrayRows,
    Batch,
    as_labels,
    as_tensor,
    as_weights,
    check_finite,
    column_names,
    weigh_unlabelled,
)
from gmm_lightning.training.base import RowsDataModule, require_unlabeled_weight

_PARTS = {"train": "training set", "val": "validation set", "test": "test set"}


class ArrayDataModule(RowsDataModule):
    """Rows in memory, read as slices, sharded exactly over processes.

    Args:
        x: rows `(N, D)`: a tensor, an array, lists, or a pandas, polars or Arrow table.
        sample_weight: `(N,)`, finite and not negative: a row of weight 2 counts as two rows, a
            row of weight 0 is ignored. Parts that are set aside keep the weights of their rows.
        labels: `(N,)`, -1 where they are not known, or soft ones `(N, C)`: for the evidence of a
            layer, and to judge a fit.
        unlabeled_weight: factor of the weights of training rows without a label.
        val_fraction: share of the rows set aside for validation, drawn by `seed`.
        test_fraction: share of the rows set aside for a test.
        batch_size: rows at a time; shuffled, the rows of one step over all processes.
        shuffle: read a new permutation in every epoch, for gradient descent.
        standardize: let the model subtract the mean and divide by the standard deviation.
        seed: of the split and of the permutations.
        columns: names of the features; None: those of a table, else x0, x1, ...
        classes: names of the labels.
        name: name of the data in messages and pictures.

    Raises:
        InvalidDataError: not a matrix of numbers, no rows, non-finite rows (by number, and by
            column of a table), labels or weights that do not fit.
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
        unlabeled_weight: float = 1.0,
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
        super().__init__(batch_size, seed, name, shuffle=shuffle, standardize=standardize)
        columns = columns or column_names(x)
        whole = _checked(x, sample_weight, labels, columns)
        self.columns = tuple(columns or (f"x{i}" for i in range(whole.x.shape[1])))
        self.classes = tuple(classes) if classes else None
        known = labels is not None
        self.unlabeled_weight = require_unlabeled_weight(unlabeled_weight, labelled=known)
        self._parts: dict[str, ArrayRows] = {}
        split = _split_rows(whole.num_rows, val_fraction, test_fraction, seed)
        for part, index in zip(_PARTS, split, strict=True):
            if len(index):
                # Without a split nothing is copied.
                self.set_part(part, whole if len(index) == whole.num_rows else whole.at(index))

    @property
    def train(self) -> Batch:
        """The training set."""
        return self._parts["train"].batch

    @property
    def val(self) -> Batch | None:
        """The validation set; None without one."""
        return self._parts["val"].batch if "val" in self._parts else None

    @property
    def test(self) -> Batch | None:
        """The test set; None without one."""
        return self._parts["test"].batch if "test" in self._parts else None

    @classmethod
    def builtin(cls, name: str, **options: Any) -> Self:
        """The standard training part of a built-in real data set.

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
        r"""Data module of the rows of a file: .csv, .tsv, .txt, .npy, .npz or .parquet.

        Args:
            path: the training set, from which `val_fraction` and `test_fraction` are taken.
            columns: as for `gmm_lightning.datasets.read_table`, like the next five.
            label: the column of classes; an empty cell is an unknown one.
            weight: the column of sample weights.
            header: of a text file, whether its first line holds names; None: guess.
            separator: of a text file; None: guess.
            key: the array of a .npz file.
            val_path: a validation set instead of `val_fraction`; columns by name.
            test_path: a test set instead of `test_fraction`.
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
            >>> data.name, data.columns, data.classes, data.num_train_rows, data.test.num_rows
            ('trees', ('height',), ('fir', 'oak'), 3, 1)
            >>> folder.cleanup()
        """
        if path in (None, ""):
            raise InvalidArgumentError(
                "expected the path of a file to read; on the command line: data=file "
                "data.path=my.csv"
            )
        others = {"val": val_path, "test": test_path}
        others = {part: other for part, other in others.items() if other not in (None, "")}
        paths = [str(p) for p in (path, *others.values())]
        how = {"label": label, "weight": weight, "header": header}
        how |= {"separator": separator, "key": key}
        options |= {f"{part}_fraction": 0.0 for part in others}
        train, *tables = read_tables(paths, columns=columns, **how)
        data = cls(
            train.x,
            sample_weight=train.weight,
            labels=train.labels,
            columns=train.columns,
            classes=train.classes,
            name=train.name,
            **options,
        )
        for part, table in zip(others, tables, strict=True):
            data.set_part(part, _checked(table.x, table.weight, table.labels, data.columns))
        return data

    def part(self, name: str, *, labels: bool = True) -> ArrayRows | None:
        """See `RowsDataModule.part`."""
        return self._parts.get(name)

    def set_part(self, name: str, rows: Batch) -> None:
        """Set the rows of `train`, `val` or `test`.

        Raises:
            InvalidDataError: all their sample weights are 0.
        """
        if name == "train":
            rows = weigh_unlabelled(rows, self.unlabeled_weight)
        self._parts[name] = ArrayRows(rows)
        if not self._parts[name].total_weight > 0:
            raise InvalidDataError(
                f"all sample weights of the {_PARTS[name]} are 0, so no row of it counts; give "
                "some of its rows a positive weight"
            )


def _checked(x: Any, weight: Any, labels: Any, columns: Sequence[str]) -> Batch:
    """A batch of a matrix of finite rows, with their weights and labels, checked."""
    x = as_tensor(x)
    if x.dim() != 2 or 0 in x.shape:
        hint = "; one feature is x.reshape(-1, 1), or table[[name]]" if x.dim() == 1 else ""
        raise InvalidDataError(
            f"expected a matrix of rows (N, D), got an array of shape {tuple(x.shape)}{hint}"
        )
    if columns and len(columns) != x.shape[1]:
        raise InvalidArgumentError(
            f"columns must name the {x.shape[1]} features, got {len(columns)} names"
        )
    check_finite(x, columns=columns)
    own = None if labels is None else as_labels(labels, (len(x),))
    return Batch(x, as_weights(weight, x, Size(())), own)


def _split_rows(
    num_rows: int, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the rows to train on, for validation and for a test, in order each.

    The validation set is drawn first, so that it does not depend on the test set.
    """
    shares = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    shares = {name: require_number(name, x, least=0, most=1) for name, x in shares.items()}
    sizes = {name: round(share * num_rows) for name, share in shares.items() if share > 0}
    if not sizes:
        return torch.arange(num_rows), torch.arange(0), torch.arange(0)
    if 0 in sizes.values() or sum(sizes.values()) >= num_rows:
        asked = " and ".join(f"{name}={shares[name]}" for name in sizes)
        if num_rows == 1:
            raise InvalidDataError(
                f"there is 1 row, so none can be set aside ({asked}); a mixture needs at least as "
                "many rows as components, one on each line of a file (0 sets none aside)"
            )
        raise InvalidArgumentError(
            f"{asked} of {num_rows} rows leaves no rows on one side; 0 sets none aside"
        )
    num_val, num_test = (sizes.get(name, 0) for name in shares)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    parts = order.split([num_val, num_test, num_rows - num_val - num_test])
    val, test, train = (part.sort().values for part in parts)
    return train, val, test

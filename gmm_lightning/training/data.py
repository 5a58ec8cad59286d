"""Arrays in memory as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Size

from gmm_lightning.datasets import load, read_tables
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import ArrayRows, Batch, as_tensor, as_weights, check_finite
from gmm_lightning.training.base import RowsDataModule
from gmm_lightning.training.split import split_rows

_PARTS = {"train": "training set", "val": "validation set", "test": "test set"}


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
        whole = ArrayRows(_checked(x, sample_weight, labels))
        count = whole.num_features
        self.columns = tuple(columns) if columns else tuple(f"x{i}" for i in range(count))
        self.classes = tuple(classes) if classes else None
        self._parts: dict[str, ArrayRows] = {}
        split = split_rows(whole.num_rows, val_fraction, test_fraction, seed)
        for part, index in zip(_PARTS, split, strict=True):
            if len(index):
                # Without a split nothing is copied.
                one = len(index) == whole.num_rows
                self.set_part(part, whole if one else ArrayRows(whole.batch.at(index)))

    @property
    def train(self) -> Batch:
        """The training set."""
        return self._parts["train"].batch

    @property
    def val(self) -> Batch | None:
        """The validation set."""
        return self._parts["val"].batch if "val" in self._parts else None

    @property
    def test(self) -> Batch | None:
        """The test set."""
        return self._parts["test"].batch if "test" in self._parts else None

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
            columns: which to read, as for `gmm_lightning.datasets.read_table`.
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
            >>> data.name, data.columns, data.classes, data.num_train_rows, data.test.num_rows
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
            data.set_part(part, ArrayRows(_checked(table.x, table.weight, table.labels)))
        return data

    def part(self, name: str, *, labels: bool = True) -> ArrayRows | None:
        """All rows of `train`, `val` or `test`; None where none were set aside."""
        return self._parts.get(name)

    def set_part(self, name: str, rows: ArrayRows) -> None:
        """Make `rows` the rows of `train`, `val` or `test`.

        Raises:
            InvalidDataError: all their sample weights are 0.
        """
        if not rows.total_weight > 0:
            raise InvalidDataError(
                f"all sample weights of the {_PARTS[name]} are 0, so no row of it counts; give "
                "some of its rows a positive weight"
            )
        self._parts[name] = rows


def _checked(x: Any, weight: Any, labels: Any) -> Batch:
    """A matrix of finite rows, with a weight and a label for each row where there are any.

    Raises:
        InvalidDataError: anything else.
    """
    x = as_tensor(x)
    if x.dim() != 2:
        hint = "; reshape one feature with x[:, None]" if x.dim() == 1 else ""
        raise InvalidDataError(
            f"expected a matrix of rows (N, D), got an array of shape {tuple(x.shape)}{hint}"
        )
    if 0 in x.shape:
        raise InvalidDataError(f"expected rows, got an array of shape {tuple(x.shape)}")
    check_finite(x)
    if weight is not None:
        weight = as_tensor(weight, "sample_weight")
        if weight.shape != x.shape[:1]:
            raise InvalidDataError(
                f"sample_weight must be of shape ({len(x)},), got shape {tuple(weight.shape)}"
            )
        weight = as_weights(weight, x, Size(()))
    if labels is not None:
        labels = as_tensor(labels, "labels")
        if labels.shape != x.shape[:1]:
            raise InvalidDataError(
                f"labels must be of shape ({len(x)},), got shape {tuple(labels.shape)}"
            )
    return Batch(x, weight, labels)

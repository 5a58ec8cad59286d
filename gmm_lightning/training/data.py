"""Arrays in memory as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Size

from gmm_lightning.datasets import load, read_tables
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import (
    ArrayRows,
    Batch,
    ObservedFeatures,
    as_labels,
    as_tensor,
    as_weights,
    check_errors,
    check_finite,
    column_names,
    complete,
    errors_of,
    weigh_unlabelled,
    with_errors,
)
from gmm_lightning.training.base import RowsDataModule, missing_word, require_unlabeled_weight
from gmm_lightning.training.error_columns import ErrorColumns, ErrorSpec
from gmm_lightning.training.split import split_rows

_PARTS = {"train": "training set", "val": "validation set", "test": "test set"}


class ArrayDataModule(RowsDataModule):
    """Rows in memory, read as slices, sharded exactly over processes.

    Args:
        x: rows `(N, D)`: a tensor, an array, lists, or a pandas, polars or Arrow table.
        sample_weight: `(N,)`, finite and not negative: a row of weight 2 counts as two rows, a
            row of weight 0 is ignored. Parts that are set aside keep the weights of their rows.
        error_covariance: of the errors of measurement of the rows, variances `(N, D)` or matrices
            `(N, D, D)`, as for `fit_em`.
        missing: of entries that are NaN, masked or null: `refuse`, `drop` leaves their rows out,
            `em` uses the entries that are there, in fits and in likelihoods. A row without any
            counts in the weights alone.
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
        >>> import torch
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
        error_covariance: Any = None,
        missing: str | None = "refuse",
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
        how: dict[str, Any] = {"shuffle": shuffle, "standardize": standardize, "missing": missing}
        super().__init__(batch_size, seed, name, **how)
        columns = columns or column_names(x)
        rows = Batch(x, sample_weight, labels)
        whole = self._checked(with_errors(rows, error_covariance), columns)
        self.columns = tuple(columns or (f"x{i}" for i in range(whole.x.shape[1])))
        self.classes = tuple(classes) if classes else None
        known = labels is not None
        self.unlabeled_weight = require_unlabeled_weight(unlabeled_weight, labelled=known)
        self._parts: dict[str, ArrayRows] = {}
        split = split_rows(whole.num_rows, val_fraction, test_fraction, seed)
        for part, index in zip(_PARTS, split, strict=True):
            if len(index):
                # Without a split nothing is copied.
                self.set_part(part, whole if len(index) == whole.num_rows else whole.at(index))
        if self.missing == "em":
            observed = ObservedFeatures()
            observed.add(self.train)
            observed.require_all(self.columns)

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
        errors: ErrorSpec = None,
        missing: str | None = "refuse",
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
            columns: as for `gmm_lightning.datasets.read_table`, like label, weight and the last
                three.
            label: the column of classes; an empty cell is an unknown one.
            weight: the column of sample weights.
            errors: columns of the standard deviations of errors of measurement, in the units of
                the features: the name of one for each feature, or null where it is exact; or a
                mapping from features to them.
            missing: of empty cells, as for the class.
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
        how |= {"allow_missing": missing_word(missing) != "refuse"}
        options |= {f"{part}_fraction": 0.0 for part in others}
        wanted = ErrorColumns.to_read(columns, errors)
        train, *tables = read_tables(paths, columns=wanted, **how)
        split = ErrorColumns.of(train.columns, errors)
        rows = split(Batch(as_tensor(train.x)))
        data = cls(
            rows.x,
            sample_weight=train.weight,
            error_covariance=errors_of(rows),
            missing=missing,
            labels=train.labels,
            columns=split.columns,
            classes=train.classes,
            name=train.name,
            **options,
        )
        for part, table in zip(others, tables, strict=True):
            rows = split(Batch(as_tensor(table.x)))
            rows = rows._replace(weight=table.weight, labels=table.labels)
            data.add_part(part, rows)
        return data

    def part(self, name: str, *, labels: bool = True) -> ArrayRows | None:
        """See `RowsDataModule.part`."""
        return self._parts.get(name)

    def add_part(self, name: str, rows: Batch) -> None:
        """Check the rows of `val` or `test`, and set them.

        Raises:
            InvalidDataError: as for those of the class.
        """
        self.set_part(name, self._checked(rows, self.columns))

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

    def _checked(self, rows: Batch, columns: Sequence[str]) -> Batch:
        """A batch of a matrix of rows, with their weights, errors and labels, checked."""
        x = as_tensor(rows.x)
        if x.dim() != 2 or 0 in x.shape:
            hint = "; one feature is x.reshape(-1, 1), or table[[name]]" if x.dim() == 1 else ""
            raise InvalidDataError(
                f"expected a matrix of rows (N, D), got an array of shape {tuple(x.shape)}{hint}"
            )
        if columns and len(columns) != x.shape[1]:
            raise InvalidArgumentError(
                f"columns must name the {x.shape[1]} features, got {len(columns)} names"
            )
        check_finite(x, columns=columns, missing=None if self.missing == "refuse" else "em")
        labels = None if rows.labels is None else as_labels(rows.labels, (len(x),))
        batch = Batch(x, as_weights(rows.weight, x, Size(())), labels, rows.extra)
        check_errors(batch)
        if self.missing != "drop":
            return batch
        kept = complete(batch)
        if not kept.num_rows:
            raise InvalidDataError(
                "an entry is missing in every row, so that missing=drop leaves none: fit to what "
                "is observed, by missing=em"
            )
        self._report_dropped(batch.num_rows - kept.num_rows, batch.num_rows)
        return kept

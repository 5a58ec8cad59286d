"""Files of any size as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gmm_lightning.datasets import FileRows, open_rows
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.rows import CompleteRows, MappedRows, RowSource, weigh_unlabelled
from gmm_lightning.training.base import RowsDataModule, require_unlabeled_weight
from gmm_lightning.training.error_columns import ErrorColumns, ErrorSpec


class StreamDataModule(RowsDataModule):
    r"""Rows of files of any size, of which only a few blocks are in memory.

    Every process reads its own part of the rows, each row exactly once in a pass, and the next
    blocks are read while one is computed with.

    Args:
        path: a file, a folder of shards, or a pattern: see `gmm_lightning.datasets.open_rows`.
        columns: which to read; None: every column of numbers.
        weight: the column of sample weights.
        errors: the columns of standard deviations of errors, as for `ArrayDataModule.file`.
        missing: of empty cells, as for `ArrayDataModule`; `drop` reads all rows once to count
            those that stay.
        label: the column of classes, read for the evidence of a layer, and to judge a fit; an
            empty cell is an unknown one.
        unlabeled_weight: factor of the weights of training rows without a label.
        header: of a text file, whether its first line holds names; None: guess.
        separator: of a text file; None: guess.
        key: the array of a .npz file.
        val_path: a validation set; columns by name.
        test_path: a test set.
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
        errors: ErrorSpec = None,
        missing: str | None = "refuse",
        label: str | int | None = None,
        unlabeled_weight: float = 1.0,
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
        name = Path(str(path)).stem
        how: dict[str, Any] = {"shuffle": shuffle, "standardize": standardize, "missing": missing}
        super().__init__(batch_size, seed, name, **how)
        options = {"weight": weight, "label": label, "header": header}
        options |= {"separator": separator, "key": key}
        options |= {"allow_missing": self.missing != "refuse"}
        first = open_rows(path, columns=ErrorColumns.to_read(columns, errors), **options)
        self._split = ErrorColumns.of(first.columns, errors)
        self.columns = self._split.columns
        self._files = {"train": first}
        known = first.labelled
        self.unlabeled_weight = require_unlabeled_weight(unlabeled_weight, labelled=known)
        for part, other in (("val", val_path), ("test", test_path)):
            if other is not None and other != "":
                self._files[part] = open_rows(other, columns=first.columns, **options)
        # Of the rows that stay, where some are dropped.
        self._counts: dict[str, Sequence[int]] = {}
        for part in self._files if self.missing == "drop" else ():
            rows = CompleteRows(self._with_errors(self._files[part]))
            self._counts[part] = rows.counts
            self._report_dropped(rows.num_dropped, self._files[part].num_rows)
        self._some: dict[int, Tensor] = {}

    @property
    def classes(self) -> tuple[str, ...] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Names of the labels, from one pass over the training set, or None."""
        return self._files["train"].classes

    def part(self, name: str, *, labels: bool = False) -> RowSource | None:
        """See `RowsDataModule.part`."""
        file = self._files.get(name)
        if file is None:
            return None
        weighs = name == "train" and self.unlabeled_weight != 1
        rows = self._with_errors(file.with_labels(self.classes) if labels or weighs else file)
        rows = CompleteRows(rows, self._counts[name]) if name in self._counts else rows
        if not weighs:
            return rows
        return MappedRows(
            rows, partial(weigh_unlabelled, factor=self.unlabeled_weight), weighted=True
        )

    def _with_errors(self, rows: FileRows) -> RowSource:
        """The rows of a file with the errors of their features, if these have any."""
        if not self._split.errors:
            return rows
        return MappedRows(rows, self._split, self._split.columns)

    def some_rows(self, n: int) -> Tensor:
        """At most n rows of the training set, evenly spaced; kept for further pictures."""
        if n not in self._some:
            self._some[n] = super().some_rows(n)
        return self._some[n]

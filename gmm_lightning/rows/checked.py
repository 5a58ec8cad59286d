"""Checked row sources from the tensors, arrays and iterables that users pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Size

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows.arrays import column_names
from gmm_lightning.rows.batch import Batch, as_batch, is_batches
from gmm_lightning.rows.conversion import as_rows, as_tensor, as_weights
from gmm_lightning.rows.source import ArrayRows, RowSource, is_shared
from gmm_lightning.rows.uncertain import require_missing, with_errors


def as_source(
    x: Any,
    sample_weight: Any = None,
    *,
    num_features: int,
    batch_shape: Size | tuple[int, ...] = (),
    missing: str | None = None,
    error_covariance: Any = None,
) -> RowSource:
    """A source of rows, read and checked once, for mixtures of D features and batch shape B.

    Args:
        x: rows `(*S, *B, D)` as `as_tensor` takes them, a `Batch`, a `RowSource`, or a
            re-iterable of batches.
        sample_weight: of rows in memory, broadcasts to `(*S, *B)`.
        num_features: D.
        batch_shape: B.
        missing: None refuses missing entries; `em` keeps them as NaN.
        error_covariance: of the errors of rows in memory, `(N, D)` or `(N, D, D)`.

    Raises:
        InvalidArgumentError: weights or errors beside a batch or an iterable of batches.
        InvalidDataError: an iterator that can be read only once, no numbers, rows of the wrong
            shape or not finite (by number, and column of a table), bad weights or errors, no rows
            at all, weights that are all zero, or a feature that is never observed.
    """
    batch_shape, missing = Size(batch_shape), require_missing(missing)
    if isinstance(x, ArrayRows):
        x = x.batch
    in_batches = is_batches(x)
    if in_batches and iter(x) is x:
        raise InvalidDataError(
            f"x is a {type(x).__name__}, which can be read only once, and EM reads the data in "
            "every iteration: pass a list, a DataLoader, or an object whose __iter__ starts anew"
        )
    if sample_weight is not None and (in_batches or isinstance(x, Batch)):
        raise InvalidArgumentError(
            "sample_weight goes with rows in memory; batches carry their own: "
            "gmm_lightning.rows.Batch(x, weight)"
        )
    if error_covariance is not None and (in_batches or isinstance(x, Batch)):
        raise InvalidArgumentError(
            "error_covariance goes with rows in memory; batches carry their own: "
            'gmm_lightning.rows.Batch(x, extra={"error_covariance": errors})'
        )
    if in_batches:
        source = _CheckedRows(x, num_features, batch_shape)
    else:
        batch = with_errors(
            x if isinstance(x, Batch) else Batch(x, sample_weight), error_covariance
        )
        names, batch = column_names(batch.x), batch._replace(x=as_tensor(batch.x))
        rows = as_rows(batch.x, num_features, batch_shape)
        weight = as_weights(batch.weight, batch.x, batch_shape)
        source = ArrayRows(batch._replace(x=rows, weight=weight))
        source.columns = names
    source.missing = missing
    source.check()
    return source


class _CheckedRows(RowSource):
    """A re-iterable of batches, checked as they are read; a missing weight counts as 1."""

    def __init__(self, batches: Iterable[Any], num_features: int, batch_shape: Size) -> None:
        self._batches, self.num_features, self._batch_shape = batches, num_features, batch_shape
        self.columns = batches.columns if isinstance(batches, RowSource) else ()
        # Known after `check`.
        self.num_rows = 0

    def __iter__(self) -> Iterator[Batch]:
        first_row = 0
        for number, item in enumerate(self._batches):
            try:
                batch, self.columns = as_batch(item), column_names(item) or self.columns
                x = as_rows(batch.x, self.num_features, self._batch_shape)
                weight = as_weights(batch.weight, batch.x, self._batch_shape)
            except InvalidDataError as error:
                raise InvalidDataError(
                    f"batch {number}, from row {first_row} on: {error}"
                ) from error
            self.shared = self.shared and is_shared(x)
            self.weighted = self.weighted or weight is not None
            if weight is None and self.weighted:
                weight = torch.ones(len(x), *self._batch_shape, dtype=torch.float64)
            yield batch._replace(x=x, weight=weight)
            first_row += len(x)

    def check(self) -> int:
        self.num_rows = super().check()
        return self.num_rows

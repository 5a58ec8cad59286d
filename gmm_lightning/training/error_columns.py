"""Columns of a table that hold the standard deviations of errors of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._messages import format_list
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch, with_errors

ErrorSpec = Sequence[str | None] | Mapping[str, str] | str | None
_Columns = Sequence[str | int] | str | int | None


@dataclass(frozen=True)
class ErrorColumns:
    """A split of the columns of a table into features and the errors of these.

    Attributes:
        columns: names of the features.
        features: positions of the features in the table.
        errors: for each feature, the position of the column of its errors, or None where it is
            exact; empty without errors.

    Example:
        >>> split = ErrorColumns.of(("x", "y", "dx"), {"x": "dx"})
        >>> rows = split(Batch(torch.tensor([[1.0, 2.0, 0.5]])))
        >>> split.columns, rows.x.tolist(), rows.extra["error_covariance"].tolist()
        (('x', 'y'), [[1.0, 2.0]], [[0.25, 0.0]])
    """

    columns: tuple[str, ...]
    features: list[int]
    errors: list[int | None]

    @staticmethod
    def to_read(columns: _Columns, errors: ErrorSpec) -> _Columns:
        """The columns to read of a file: the chosen ones and those of errors; None for all."""
        if columns is None or errors is None:
            return columns
        chosen = [columns] if isinstance(columns, str | int) else list(columns)
        return [*chosen, *(name for name in _error_names(errors) if name not in chosen)]

    @classmethod
    def of(cls, names: Sequence[str], errors: ErrorSpec) -> ErrorColumns:
        """The split of a table with columns of these names.

        Raises:
            InvalidArgumentError: errors of no feature, in no column, or of another number of
                features.
        """
        known = {name: position for position, name in enumerate(names)}
        apart = _error_names(errors)
        missing = [name for name in apart if name not in known]
        if missing:
            raise InvalidArgumentError(
                f"errors names {format_list(map(repr, missing))}, which is no column of numbers "
                f"that is read; these are: {format_list(names, 20)}"
            )
        columns = tuple(name for name in names if name not in apart)
        features = [known[name] for name in columns]
        if errors is None:
            return cls(columns, features, [])
        if isinstance(errors, Mapping):
            wrong = [name for name in errors if name not in columns]
            if wrong:
                raise InvalidArgumentError(
                    f"errors gives {format_list(map(repr, wrong))} a column of errors, which is no "
                    f"feature; these are: {format_list(columns, 20)}"
                )
            own = [errors.get(name) for name in columns]
        else:
            own = [errors] if isinstance(errors, str) else list(errors)
            if len(own) != len(columns):
                raise InvalidArgumentError(
                    f"errors must name a column for each of the {len(columns)} features "
                    f"({format_list(columns, 20)}), null where one is exact, got {len(own)}; or "
                    "write errors={feature: column}"
                )
        return cls(columns, features, [None if name is None else known[name] for name in own])

    def __call__(self, batch: Batch) -> Batch:
        """The features of a batch of the whole table, with the variances of their errors.

        Raises:
            InvalidDataError: a standard deviation below 0, or none of an entry that is there.
        """
        if not self.errors:
            return batch
        x = batch.x[:, self.features]
        variances = torch.zeros_like(x, dtype=torch.float64)
        for i, position in enumerate(self.errors):
            if position is not None:
                variances[:, i] = self._variance(batch.x[:, position].double(), x[:, i], i)
        return with_errors(batch._replace(x=x), variances)

    def _variance(self, deviation: Tensor, values: Tensor, feature: int) -> Tensor:
        name = self.columns[feature]
        deviation = torch.where(torch.isnan(values), 0.0, deviation)
        if bool(torch.isnan(deviation).any()):
            raise InvalidDataError(
                f"the standard deviation of the error of {name} is missing where {name} is not; "
                "give it, 0 where the value is exact"
            )
        if bool((deviation < 0).any()):
            raise InvalidDataError(
                f"the standard deviations of the errors of {name} must be >= 0, got "
                f"{float(deviation.min()):g}"
            )
        return deviation.square()


def _error_names(errors: ErrorSpec) -> list[str]:
    """The columns of errors, each once.

    Raises:
        InvalidArgumentError: something else than names.
    """
    given = [errors] if isinstance(errors, str) else errors or ()
    found = list(given.values()) if isinstance(given, Mapping) else list(given)
    if not all(name is None or isinstance(name, str) for name in found):
        raise InvalidArgumentError(
            f"errors must be names of columns, such as errors=[x_err,y_err], got {errors!r}"
        )
    return list(dict.fromkeys(name for name in found if name is not None))

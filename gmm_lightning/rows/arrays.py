"""Numpy arrays of numbers from what holds a table: frames, columns, masked arrays, lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._messages import format_list
from gmm_lightning.errors import InvalidDataError

# pandas, polars and Arrow spell their dtypes nearly alike: Int64, uint8, double[pyarrow],
# Sparse[float64, nan], decimal128(5, 2).
_NUMBER = re.compile(
    r"(sparse\[)?(u?int\d+|float\d*|double|halffloat|bool(ean)?|decimal\d*\()", re.IGNORECASE
)
# What to do with an array of another kind.
_REMEDIES = {
    "c": "take real and imaginary parts as two features",
    "M": "write dates as numbers, such as days since the first one",
    "m": "divide durations by a unit, such as np.timedelta64(1, 's')",
    "O": "call astype(float), with nan where a value is missing, or number what is text by "
    "numpy.unique(x, return_inverse=True)",
    "S": "call astype(float), or number what is text by numpy.unique(x, return_inverse=True)",
    "U": "call astype(float), or number what is text by numpy.unique(x, return_inverse=True)",
    "V": "call numpy.lib.recfunctions.structured_to_unstructured",
}


def column_names(x: Any) -> tuple[str, ...]:
    """Names of the columns of a pandas, polars or Arrow table; none for anything else."""
    return tuple(map(str, getattr(x, "column_names", x.columns))) if _is_frame(x) else ()


def _is_frame(x: Any) -> bool:
    """Whether x is a table of pandas, polars or Arrow: one of their ways to its columns."""
    ways = ("iloc", "get_columns", "column_names")
    return any(hasattr(x, way) for way in ways) and hasattr(x, "columns")


def require_order(x: Any, columns: Sequence[str]) -> None:
    """Refuse a table that has columns of given names in another order.

    Raises:
        InvalidDataError: the message gives the right order.
    """
    own = column_names(x)
    if own != tuple(columns) and sorted(own) == sorted(columns):
        raise InvalidDataError(
            f"the columns are {format_list(map(repr, own))}, and the mixture knows them as "
            f"{format_list(map(repr, columns))}; put them in this order"
        )


def as_array(x: Any, name: str) -> NDArray[Any]:
    """An array of real numbers, NaN where a table or a mask has none, without a copy if possible.

    Raises:
        InvalidDataError: x holds something else; the message begins with the `name` of x.
    """
    if _is_frame(x):
        return _frame_array(x, name)
    try:
        array = _column_array(x) if _is_column(x) else _plain_array(x)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(x, list | tuple) and isinstance(error, ValueError):
            raise InvalidDataError(
                f"{name} must be a rectangular array, got rows of unequal length"
            ) from None
        raise InvalidDataError(_refusal(x, name)) from None
    if array.dtype.kind not in "fiub":
        raise InvalidDataError(_refusal(x, name, array))
    return array


def _plain_array(x: Any) -> NDArray[Any]:
    """An array of x, with NaN in the place of what is masked."""
    if isinstance(x, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in x):
        x = np.ma.stack(x)
    if isinstance(x, np.ma.MaskedArray) and x.dtype.kind in "fiub" and np.ma.is_masked(x):
        return np.ma.filled(x if x.dtype.kind == "f" else x.astype(np.float64), np.nan)
    return np.asarray(x)


def _frame_array(frame: Any, name: str) -> NDArray[Any]:
    """The matrix of a table, whose columns are all numbers."""
    dtypes = list(frame.dtypes if hasattr(frame, "dtypes") else frame.schema.types)
    pairs = zip(column_names(frame), dtypes, strict=True)
    others = [f"{label!r} ({dtype})" for label, dtype in pairs if not _NUMBER.match(str(dtype))]
    if others:
        raise InvalidDataError(
            f"{name} must hold numbers, which column(s) {format_list(others)} do not; leave them "
            "out, or make numbers of them"
        )
    if not dtypes or (isinstance(dtypes[0], np.dtype) and len(set(dtypes)) == 1):
        return np.asarray(frame)
    if hasattr(frame, "iloc"):
        return frame.to_numpy(dtype="float64", na_value=np.nan)
    columns = frame.get_columns() if hasattr(frame, "get_columns") else frame.columns
    return np.stack(list(map(_column_array, columns)), axis=1)


def _is_column(x: Any) -> bool:
    """Whether x is a column of pandas, polars or Arrow, with numbers."""
    return hasattr(x, "to_numpy") and _NUMBER.match(str(_dtype(x))) is not None


def _dtype(column: Any) -> Any:
    """The dtype of a column; Arrow calls it its type."""
    return getattr(column, "dtype", getattr(column, "type", None))


def _column_array(column: Any) -> NDArray[Any]:
    """The numbers of a column, NaN where one is missing."""
    if not hasattr(column, "cast"):
        # pandas: only its own dtypes have missing values that are not NaN.
        own = not isinstance(column.dtype, np.dtype)
        return column.to_numpy(dtype="float64", na_value=np.nan) if own else column.to_numpy()
    array = np.asarray(column)
    if array.dtype.kind in "fiub":
        return array
    # Decimals, and booleans of which some are missing; Arrow has names for dtypes, polars types.
    return np.asarray(column.cast("float64" if hasattr(column, "type") else float))


def _refusal(x: Any, name: str, array: NDArray[Any] | None = None) -> str:
    """What is wrong with x, in a sentence."""
    kind = type(x).__name__
    for method in ("toarray", "todense"):
        if hasattr(x, method):
            return f"{name} must be dense, got a sparse {kind}; call {method}()"
    if isinstance(x, str | bytes):
        return f"{name} must hold numbers, got text; gmm_lightning.datasets.read_table reads files"
    if array is None:
        return f"{name} must hold numbers, got {kind}, which gives no array; convert it first"
    if array.ndim or array.dtype.kind != "O":
        what = f"an array of dtype {array.dtype} and shape {array.shape}"
        return f"{name} must hold numbers, got {what}; {_REMEDIES[array.dtype.kind]}"
    remedy = "pass an array, a list of rows, or a table"
    if isinstance(x, Mapping) and "x" in x:
        remedy = "take its rows, x['x']"
    elif isinstance(x, Mapping):
        remedy = "stack its columns with np.column_stack(list(x.values()))"
    elif hasattr(x, "__next__"):
        remedy = "make a list of it"
    elif hasattr(x, "collect"):
        remedy = "call collect()"
    return f"{name} must hold numbers, got {kind}; {remedy}"

"""Checks of the numbers that define regions, and of the rows tested against them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import as_tensor

Row = Sequence[float] | Tensor


def as_row(name: str, values: Any, *, finite: bool = True) -> tuple[float, ...]:
    """Numbers `(D,)` as a tuple: a region can be compared, hashed and stored."""
    try:
        plain = values if hasattr(values, "shape") else [float(v) for v in values]
        row = torch.as_tensor(plain, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        row = torch.zeros(())
    good = row.dim() == 1 and len(row) > 0 and not bool(row.isnan().any())
    if not good or (finite and not bool(row.isfinite().all())):
        kind = "finite numbers" if finite else "numbers"
        raise InvalidArgumentError(f"{name} must be a row of {kind}, got {describe(values)}")
    return tuple(row.tolist())


def check_width(name: str, row: Row, num_features: int) -> None:
    """Raise `InvalidArgumentError` unless a row has one number per feature."""
    if len(row) != num_features:
        raise InvalidArgumentError(f"{name} must have {num_features} entries, got {len(row)}")


def as_rows(x: Tensor, width: int | None) -> Tensor:
    """Rows, checked, in the dtype of sums."""
    x = as_tensor(x)
    if x.dim() == 0 or (width is not None and x.shape[-1] != width):
        raise InvalidArgumentError(
            f"expected rows with {width} features in the last axis, got an array of shape "
            f"{tuple(x.shape)}"
        )
    return x.to(accumulator_dtype(x.device))


def unit_of(length: float) -> float:
    """The power of two below a length: division by it is exact."""
    return math.ldexp(1.0, math.frexp(length)[1] - 1)

"""Rows and labels as arrays, checked against the number of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.rows import as_tensor

Array = NDArray[np.float64]
Values = torch.Tensor | ArrayLike


def rows_and_labels(
    x: Values | None, labels: Values | None, num_features: int
) -> tuple[Array, NDArray[Any] | None]:
    """The finite rows of `x` `(*S, D)` as `(N, D)` and their labels `(N,)`, None without labels."""
    if x is None:
        if labels is not None:
            raise InvalidArgumentError("expected x together with labels, got labels alone; pass x")
        return np.empty((0, num_features)), None
    points = to_array(x)
    if points.ndim < 2 or points.shape[-1] != num_features:
        raise InvalidArgumentError(
            f"expected x of shape (N, {num_features}), got {points.shape}; the last dimension "
            "holds the features of the mixture"
        )
    points = points.reshape(-1, num_features)
    finite = np.isfinite(points).all(axis=-1)
    if labels is None:
        return points[finite], None
    on_cpu = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else labels
    classes = np.asarray(on_cpu).reshape(-1)
    if len(classes) != len(points):
        raise InvalidArgumentError(
            f"expected one label for each of the {len(points)} rows of x, got {len(classes)}"
        )
    # Objects of several types (a name here, None there) have no order, but their names do.
    classes = classes.astype(str) if classes.dtype == object else classes
    return points[finite], classes[finite]


def finite_rows(x: Values | None, num_features: int) -> Array:
    """The finite rows of `x` `(*S, D)` as `(N, D)`, an empty array for None."""
    return rows_and_labels(x, None, num_features)[0]


def thin(num_rows: int, max_points: int) -> NDArray[np.intp]:
    """Positions of at most `max_points` rows, evenly spaced."""
    count = min(num_rows, max_points)
    return np.linspace(0, num_rows - 1, count).round().astype(np.intp)


def to_array(value: Values) -> Array:
    """A float64 array of numbers, or of a tensor on any device, with or without a graph."""
    return as_tensor(value).detach().to(device="cpu", dtype=torch.float64).numpy()

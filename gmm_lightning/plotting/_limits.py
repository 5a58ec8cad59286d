"""The window of a picture, and a grid over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components

Limits = tuple[tuple[float, float], ...]

_STDS = 3.0


def natural_limits(parts: Components, rows: NDArray[np.float64]) -> Limits:
    """For each coordinate the range of the rows and of three deviations about each mean."""
    used = parts.with_weight()
    variances = np.diagonal(used.covariances, axis1=1, axis2=2)
    reach = _STDS * np.sqrt(np.maximum(variances, 0.0))
    ends = np.concatenate([used.means - reach, used.means + reach, rows])
    if len(ends) == 0:
        return ((-1.0, 1.0),) * parts.means.shape[-1]
    low, high = ends.min(axis=0), ends.max(axis=0)
    # Room for the dots at the edge; a window of no width would show nothing.
    margin = np.where(high > low, 0.03 * (high - low), np.maximum(1e-6, 1e-3 * np.abs(low)))
    return tuple((float(a), float(b)) for a, b in zip(low - margin, high + margin, strict=True))


def given_or_natural(
    limits: Sequence[Sequence[float]] | None, parts: Components, rows: NDArray[np.float64]
) -> Limits:
    """The limits of the user, one pair for each coordinate, or the natural ones.

    Raises:
        InvalidArgumentError: Not as many pairs `low < high` of finite numbers as coordinates.
    """
    if limits is None:
        return natural_limits(parts, rows)
    size = parts.means.shape[-1]
    try:
        pairs = np.asarray(limits, dtype=np.float64).reshape(size, 2)
    except (TypeError, ValueError):
        pairs = np.full((size, 2), np.nan)
    with np.errstate(over="ignore"):
        widths = pairs[:, 1] - pairs[:, 0]
    if not (np.isfinite(widths).all() and (widths > 0).all()):
        expected = ", ".join(["(low, high)"] * size)
        raise InvalidArgumentError(
            f"expected limits ({expected}) of finite numbers with low < high, got {limits!r}"
        )
    return tuple((float(a), float(b)) for a, b in pairs)


def grid_of(limits: Limits, resolution: int) -> tuple[list[NDArray[np.float64]], NDArray]:
    """The values along each axis, and all points: (R, 1), or (R * R, 2) with x running fastest."""
    along = [np.linspace(low, high, resolution) for low, high in limits]
    return along, np.stack([part.ravel() for part in np.meshgrid(*along)], axis=-1)

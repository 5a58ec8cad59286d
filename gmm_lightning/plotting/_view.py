"""The one or two coordinates of a picture, its window, and a grid over it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from reprlib import repr as short

import numpy as np
from matplotlib.axes import Axes

from gmm_lightning._messages import describe
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, principal_plane
from gmm_lightning.plotting._rows import Array

Dims = int | str | Sequence[int | str]


@dataclass(frozen=True)
class View:
    """Coordinates `(x - origin) @ axes`, of shape (N, d), with a name for each of the d.

    Attributes:
        features: Positions of the features shown, empty if the coordinates are not features.
    """

    names: tuple[str, ...]
    origin: Array
    axes: Array
    features: tuple[int, ...] = ()

    @property
    def is_line(self) -> bool:
        """Whether there is one coordinate."""
        return self.axes.shape[1] == 1

    def rows(self, x: Array) -> Array:
        """Rows (N, D) in these coordinates (N, d)."""
        return (x - self.origin) @ self.axes

    def parts(self, parts: Components) -> Components:
        """The marginal components in these coordinates."""
        return replace(parts, means=self.rows(parts.means), factors=self.axes.T @ parts.factors)

    def label(self, ax: Axes, quantity: str) -> None:
        """Name the axes, the second one by `quantity` where there is one coordinate."""
        ax.set(xlabel=self.names[0], ylabel=quantity if self.is_line else self.names[1])


def feature_view(
    num_features: int,
    dims: Dims | None,
    columns: Sequence[str] | None,
    *,
    allowed: tuple[int, ...] = (1, 2),
    otherwise: str = "draw all pairs with plot_pairs",
) -> View:
    """The view of the features in `dims`; without `dims`, of all, if they are few enough."""
    names = feature_names(num_features, columns)
    counts = " or ".join(map(str, allowed))
    if dims is None and num_features not in allowed:
        remedy = f"pass dims={tuple(range(allowed[-1]))}, say, or {otherwise}"
        if num_features < allowed[0]:
            remedy = "there is no second one to show"
        raise InvalidArgumentError(
            f"expected a mixture of {counts} features, got {num_features}; {remedy}"
        )
    chosen = as_dims(num_features, range(num_features) if dims is None else dims, columns)
    if len(chosen) not in allowed:
        raise InvalidArgumentError(f"expected {counts} features in dims, got {len(chosen)}")
    axes = np.eye(num_features)[:, chosen]
    return View(tuple(names[i] for i in chosen), np.zeros(num_features), axes, chosen)


def principal_view(parts: Components) -> View:
    """The view of the two axes of largest variance of the mixture, named with their shares."""
    origin, axes, share = principal_plane(parts)
    names = (f"principal axis {i + 1} ({100 * share[i]:.3g}% of variance)" for i in range(2))
    return View(tuple(names), origin, axes)


def feature_names(num_features: int, columns: Sequence[str] | None) -> tuple[str, ...]:
    """One name per feature."""
    if columns is None:
        return tuple(f"feature {i}" for i in range(num_features))
    listed = isinstance(columns, Sized) and not isinstance(columns, str)
    if not listed or len(columns) != num_features:
        raise InvalidArgumentError(
            f"expected {num_features} column names, got "
            f"{len(columns) if listed else short(columns)}; give one for each feature"
        )
    return tuple(str(name) for name in columns)


def as_dims(num_features: int, dims: Dims, columns: Sequence[str] | None) -> tuple[int, ...]:
    """Positions of the features in `[0, D)`; names are looked up in `columns`."""
    names = [] if columns is None else [str(name) for name in columns]
    found: list[int] = []
    for dim in dims if isinstance(dims, Iterable) and not isinstance(dims, str) else [dims]:
        if isinstance(dim, str):
            if dim not in names:
                known = ", ".join(names) or "none, pass columns="
                raise InvalidArgumentError(
                    f"unknown feature {describe(dim)} in dims; known are: {known}"
                )
            found.append(names.index(dim))
            continue
        whole = isinstance(dim, int | np.integer) and not isinstance(dim, bool)
        if not whole or not -num_features <= dim < num_features:
            raise InvalidArgumentError(
                f"expected dims to be integers in [0, {num_features}) or column names, got "
                f"{describe(dim)}"
            )
        found.append(int(dim) % num_features)
    if len(set(found)) < len(found):
        raise InvalidArgumentError(f"expected different features in dims, got {tuple(found)}")
    return tuple(found)


def natural_limits(parts: Components, rows: Array) -> Array:
    """The window `(d, 2)` of the rows and of three standard deviations about each mean."""
    used = parts.select(parts.weights > 0)
    reach = 3.0 * used.stds
    ends = np.concatenate([used.means - reach, used.means + reach, rows])
    if len(ends) == 0:
        return np.array([[-1.0, 1.0]] * parts.num_features)
    low, high = ends.min(axis=0), ends.max(axis=0)
    # Room for the dots at the edge; a window without width would show nothing.
    margin = np.where(high > low, 0.03 * (high - low), np.maximum(1e-6, 1e-3 * np.abs(low)))
    return np.stack([low - margin, high + margin], axis=1)


def given_or_natural(
    limits: Sequence[Sequence[float]] | None, parts: Components, rows: Array
) -> Array:
    """The given limits as a window `(d, 2)`, or the natural ones."""
    if limits is None:
        return natural_limits(parts, rows)
    size = parts.num_features
    try:
        pairs = np.asarray(limits, dtype=np.float64).reshape(size, 2)
    except (TypeError, ValueError):
        pairs = np.full((size, 2), np.nan)
    with np.errstate(over="ignore"):
        widths = pairs[:, 1] - pairs[:, 0]
    if not (np.isfinite(widths).all() and (widths > 0).all()):
        expected = ", ".join(["(low, high)"] * size)
        raise InvalidArgumentError(
            f"expected limits ({expected}) of finite numbers with low < high, got "
            f"{describe(limits)}"
        )
    return pairs


def grid_of(window: Array, resolution: int) -> tuple[list[Array], Array]:
    """The values along each axis, and all points: (R, 1), or (R * R, 2) with x running fastest."""
    along = [np.linspace(low, high, resolution) for low, high in window]
    return along, np.stack([part.ravel() for part in np.meshgrid(*along)], axis=-1)

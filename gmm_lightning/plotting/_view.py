"""The one or two coordinates of a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from reprlib import repr as short

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, MixtureLike, principal_plane

Dims = int | str | Sequence[int | str]


@dataclass(frozen=True)
class View:
    """Coordinates `(x - origin) @ axes`, of shape (N, d), with a name for each of the d.

    Attributes:
        features: Positions of the features shown, empty if the coordinates are not features.
    """

    names: tuple[str, ...]
    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    features: tuple[int, ...] = ()

    @property
    def is_line(self) -> bool:
        """Whether there is one coordinate."""
        return self.axes.shape[1] == 1

    def rows(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (N, D) in these coordinates (N, d)."""
        return (x - self.origin) @ self.axes

    def parts(self, parts: Components) -> Components:
        """The marginal components in these coordinates."""
        return parts.project(self.origin, self.axes)

    def label(self, ax: Axes, quantity: str, title: str | None) -> None:
        """Name the axes, the second one by `quantity` where there is one coordinate."""
        ax.set(xlabel=self.names[0], ylabel=quantity if self.is_line else self.names[1])
        if title is not None:
            ax.set_title(title)


def feature_view(
    num_features: int,
    dims: Dims | None,
    columns: Sequence[str] | None,
    *,
    allowed: tuple[int, ...] = (1, 2),
    otherwise: str = "draw all pairs with plot_pairs",
) -> View:
    """The features named by `dims`; without `dims`, all of them if the picture can hold them.

    Raises:
        InvalidArgumentError: `dims` or `columns` do not fit, or there are too many features.
    """
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


def principal_view(mixture: MixtureLike) -> View:
    """The two axes along which the mixture varies most, with their shares of the variance."""
    origin, axes, share = principal_plane(mixture)
    names = (f"principal axis {i + 1} ({100 * share[i]:.3g}% of variance)" for i in range(2))
    return View(tuple(names), origin, axes)


def feature_names(num_features: int, columns: Sequence[str] | None) -> tuple[str, ...]:
    """One name per feature.

    Raises:
        InvalidArgumentError: Another number of names than features.
    """
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
    """Positions of the features in `[0, D)`; names are looked up in `columns`.

    Raises:
        InvalidArgumentError: An unknown name, a position out of range, or a repeated one.
    """
    found = []
    for dim in dims if isinstance(dims, Iterable) and not isinstance(dims, str) else [dims]:
        if isinstance(dim, str):
            names = [] if columns is None else [str(name) for name in columns]
            if dim not in names:
                known = ", ".join(names) if names else "none, pass columns="
                raise InvalidArgumentError(f"unknown feature {dim!r} in dims; known are: {known}")
            found.append(names.index(dim))
            continue
        whole = isinstance(dim, int | np.integer) and not isinstance(dim, bool)
        if not whole or not -num_features <= dim < num_features:
            raise InvalidArgumentError(
                f"expected dims to be integers in [0, {num_features}) or column names, got {dim!r}"
            )
        found.append(int(dim) % num_features)
    if len(set(found)) < len(found):
        raise InvalidArgumentError(f"expected different features in dims, got {tuple(found)}")
    return tuple(found)

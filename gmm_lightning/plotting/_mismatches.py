"""Rows in a component of another class, and the means where a fit started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gmm_lightning.plotting._components import Components, responsibilities_of
from gmm_lightning.plotting._rows import thin
from gmm_lightning.plotting.figures import INK


def mismatches_of(
    parts: Components,
    x: NDArray[np.float64],
    classes: NDArray[Any] | None,
    num_components: int,
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which rows lie in a component of another class, and the component of each row.

    A component belongs to the class that most of its rows have: with more components than classes
    several may share one, so nothing is wrong with a class that is not a Gaussian.

    Returns:
        The mask `(N,)`, all False without classes, and the most probable components `(N,)`.
    """
    best = responsibilities_of(parts, x, num_components).argmax(axis=1)
    if classes is None:
        return np.zeros(len(x), dtype=bool), best
    found, codes = np.unique(classes, return_inverse=True)
    counts = np.zeros((num_components, len(found)))
    np.add.at(counts, (best, codes), 1.0)
    return counts.argmax(axis=1)[best] != codes, best


def draw_mismatches(ax: Axes, rows: NDArray[np.float64], max_points: int) -> Line2D:
    """Cross out rows (N, d) in one or two coordinates, and return the legend entry."""
    keep = rows[thin(len(rows), max_points)]
    style: dict[str, Any] = {"marker": "x", "color": INK, "linestyle": "none"}
    if keep.shape[1] == 1:
        # On a line the rows are a histogram, so the crosses stand along its foot.
        transform, foot = ax.get_xaxis_transform(), np.full(len(keep), 0.02)
        ax.plot(keep[:, 0], foot, transform=transform, markersize=4, zorder=4, **style)
    else:
        ax.scatter(*keep.T, s=22, c=INK, marker="x", linewidths=0.9, zorder=3)
    return Line2D([], [], label=f"mismatch ({len(rows)})", markersize=5, **style)


def draw_initial_means(
    ax: Axes, starts: NDArray[np.float64], parts: Components, colors: Sequence[str]
) -> Line2D:
    """Hollow diamonds, joined to the final means if there is one each; returns the legend entry."""
    paired = len(starts) == len(colors)
    shades = list(colors) if paired else [INK] * len(starts)
    line = starts.shape[1] == 1
    # On a line the diamonds stand along the top, out of the way of the curves.
    transform = ax.get_xaxis_transform() if line else ax.transData
    heights = np.full(len(starts), 0.97) if line else starts[:, 1]
    style: dict[str, Any] = {"marker": "D", "markerfacecolor": "white", "linestyle": "none"}
    for at, height, color in zip(starts[:, 0], heights, shades, strict=True):
        ax.plot([at], [height], transform=transform, color=color, markersize=5.5, zorder=5, **style)
    if paired and not line:
        for k, mean in zip(map(int, parts.index), parts.means, strict=True):
            path = np.stack([starts[k], mean])
            ax.plot(*path.T, color=colors[k], linestyle=":", linewidth=1.3, zorder=3)
    return Line2D([], [], label="initial mean", color=INK, markersize=5.5, **style)

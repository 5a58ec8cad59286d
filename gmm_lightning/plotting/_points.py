"""Rows as points, and the legend of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gmm_lightning.plotting._rows import Array, thin
from gmm_lightning.plotting.figures import root_figure
from gmm_lightning.plotting.palette import PAPER_GREY, palette

MAX_LEGEND_ENTRIES = 12


def draw_points(
    ax: Axes,
    points: Array,
    *,
    colors: NDArray[Any] | str = PAPER_GREY,
    max_points: int,
    size: float = 1.0,
    **scatter: Any,
) -> Any:
    """Draw at most `max_points` rows (N, 2); returns matplotlib's collection, None without rows."""
    keep = thin(len(points), max_points)
    if len(keep) == 0:
        return None
    if not isinstance(colors, str):
        # Sorted classes would cover one another in order; a fixed shuffle avoids it.
        keep = np.random.default_rng(0).permutation(keep)
        colors = colors[keep]
    # Many points need small, faint dots to show their density; few need visible ones.
    crowd = min(1.0, len(keep) / 3000)
    style = {"alpha": 0.7 - 0.2 * crowd, "linewidths": 0, "zorder": 1} | scatter
    dots = {"s": size * (14 - 8 * crowd), "c": colors, "rasterized": len(keep) > 1000}
    return ax.scatter(*points[keep].T, **dots, **style)


def class_handles(classes: NDArray[Any]) -> list[Line2D]:
    """Legend entries of the classes; empty if there are too many."""
    found = np.unique(classes)
    # So many colours cannot be matched to a list of names.
    if len(found) > MAX_LEGEND_ENTRIES:
        return []
    return [
        Line2D([], [], marker="o", linestyle="none", color=color, label=str(name))
        for name, color in zip(found, palette(len(found)), strict=True)
    ]


def add_legend(ax: Axes, handles: Sequence[Any]) -> None:
    """Add a legend, beside the axes if the figure makes room for it, so that it hides no data."""
    figure = root_figure(ax)
    if handles and figure is not None and figure.get_layout_engine() is not None:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    elif handles:
        ax.legend(handles=handles, loc="best", framealpha=0.9, fontsize="small")

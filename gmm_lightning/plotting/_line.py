"""One feature: the density, its weighted terms, and a histogram of the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gmm_lightning.plotting._components import Components
from gmm_lightning.plotting._rows import Array
from gmm_lightning.plotting.palette import INK, PAPER_GREY, palette


def draw_histogram(
    ax: Axes,
    values: Array,
    classes: NDArray[Any] | None = None,
    colors: Sequence[str] | None = None,
) -> None:
    """Draw a histogram of area one, stacked by class; a class may be a position in `colors`."""
    if len(values) == 0:
        return
    groups, shades = [values], [PAPER_GREY]
    if classes is not None:
        found = np.unique(classes)
        groups = [values[classes == c] for c in found]
        shades = [str(colors[k]) for k in found] if colors else list(palette(len(found)))
    ax.hist(groups, bins=list(_edges(values)), density=True, stacked=True, color=shades, alpha=0.35)


def _edges(values: Array) -> Array:
    count = min(60, max(10, round(2 * len(values) ** 0.4)))
    found = np.unique(values)
    # Measurements are rounded. Bins with varying numbers of possible values would show spikes
    # that are not in the data, so there a bin is a whole number of steps wide.
    if 1 < len(found) <= len(values) / 2:
        step = float(np.diff(found).min())
        steps = (found - found[0]) / step
        if steps[-1] < 1e6 and np.abs(steps - steps.round()).max() < 1e-3:
            total = round(float(steps[-1])) + 1
            width = math.ceil(total / count)
            return found[0] + step * (width * np.arange(math.ceil(total / width) + 1) - 0.5)
    return np.histogram_bin_edges(values, bins=count)


def draw_curves(
    ax: Axes,
    parts: Components,
    values: Array,
    colors: Sequence[str],
    *,
    fill: float = 0.12,
    linewidth: float = 1.8,
) -> None:
    """Draw the density `sum_k w_k N(x | mu_k, sigma_k^2)` and each weighted term of it."""
    if len(parts.index) == 0:
        return
    grid = fine_grid(parts, values)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = (grid - parts.means) / parts.stds
        scale = parts.weights[:, None] / (parts.stds * np.sqrt(2 * np.pi))
        # A point mass has no density to draw.
        terms = np.nan_to_num(scale * np.exp(-0.5 * z * z), nan=0.0, posinf=0.0)
    for term, k in zip(terms, parts.index, strict=True):
        if fill > 0:
            ax.fill_between(grid, term, color=colors[k], alpha=fill, linewidth=0, zorder=2)
        ax.plot(grid, term, "--", color=colors[k], linewidth=0.72 * linewidth, zorder=2)
    ax.plot(grid, terms.sum(axis=0), color=INK, linewidth=linewidth, zorder=3)
    ax.set_ylim(bottom=0.0)


def fine_grid(parts: Components, values: Array) -> Array:
    """Grid points on the line that resolve every component and span the values."""
    means, stds = parts.means, parts.stds
    ends = np.concatenate([values, (means - 3.5 * stds).ravel(), (means + 3.5 * stds).ravel()])
    low, high = ends.min(), ends.max()
    # A narrow component may fall between the points of an even grid, so each adds its own.
    own = (means + stds * np.linspace(-4.0, 4.0, 81)).ravel()
    grid = np.unique(np.concatenate([np.linspace(low, high, 512), own]))
    return grid[(grid >= low) & (grid <= high)]

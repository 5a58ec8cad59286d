"""One feature: the density, its weighted terms, and a histogram of the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gmm_lightning.plotting._components import Components
from gmm_lightning.plotting.figures import INK, PAPER_GREY
from gmm_lightning.plotting.palette import palette


def draw_histogram(
    ax: Axes,
    values: NDArray[np.float64],
    classes: NDArray[Any] | None = None,
    colors: Sequence[str] | None = None,
) -> None:
    """A histogram of total area one, stacked by class."""
    if len(values) == 0:
        return
    groups, shades = [values], [PAPER_GREY]
    if classes is not None:
        found = np.unique(classes)
        groups = [values[classes == c] for c in found]
        shades = list(palette(len(found)) if colors is None else colors)
    ax.hist(groups, bins=list(_edges(values)), density=True, stacked=True, color=shades, alpha=0.35)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    count = min(60, max(10, round(2 * len(values) ** 0.4)))
    found = np.unique(values)
    # Measurements are rounded. Bins that hold now two, now three of the possible values show
    # teeth that are not in the data, so there a bin is a whole number of steps wide.
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
    values: NDArray[np.float64],
    colors: Sequence[str],
    *,
    fill: float = 0.12,
    linewidth: float = 1.8,
) -> None:
    """The density `sum_k w_k N(x | mu_k, sigma_k^2)` and each weighted term of it."""
    if len(parts.index) == 0:
        return
    grid = fine_grid(parts, values)
    means, stds = _moments(parts)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = (grid - means) / stds
        terms = parts.weights[:, None] * np.exp(-0.5 * z * z) / (stds * np.sqrt(2 * np.pi))
    terms = np.nan_to_num(terms, nan=0.0, posinf=0.0)  # a point mass has no density to draw
    style = {"linewidth": 0.72 * linewidth, "linestyle": "--", "zorder": 2}
    for term, k in zip(terms, map(int, parts.index), strict=True):
        if fill > 0:
            ax.fill_between(grid, term, color=colors[k], alpha=fill, linewidth=0, zorder=2)
        ax.plot(grid, term, color=colors[k], **style)
    ax.plot(grid, terms.sum(axis=0), color=INK, linewidth=linewidth, zorder=3)
    ax.set_ylim(bottom=0.0)


def fine_grid(parts: Components, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along the line that miss no component, however narrow, and span the values."""
    means, stds = _moments(parts)
    ends = np.concatenate([values, (means - 3.5 * stds).ravel(), (means + 3.5 * stds).ravel()])
    low, high = ends.min(), ends.max()
    # A narrow component falls between the points of an even grid, so each brings its own.
    own = (means + stds * np.linspace(-4.0, 4.0, 81)).ravel()
    grid = np.unique(np.concatenate([np.linspace(low, high, 512), own]))
    return grid[(grid >= low) & (grid <= high)]


def _moments(parts: Components) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and standard deviations in one coordinate, `(J, 1)` each."""
    return parts.means, np.sqrt(parts.covariances[:, 0])

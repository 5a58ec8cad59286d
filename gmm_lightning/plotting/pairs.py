"""Marginals of all pairs of features, as a lower triangle of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import MixtureLike, components
from gmm_lightning.plotting._ellipses import draw_ellipses, draw_means, radii_and_names
from gmm_lightning.plotting._line import draw_curves, draw_histogram
from gmm_lightning.plotting._points import add_legend, class_handles, draw_points
from gmm_lightning.plotting._rows import Values, rows_and_labels
from gmm_lightning.plotting._view import Dims, as_dims, feature_names, feature_view, natural_limits
from gmm_lightning.plotting.figures import new_grid
from gmm_lightning.plotting.palette import INK, PAPER_GREY, class_colors, palette

_MAX_NUMBERED = 6


def plot_pairs(
    mixture: MixtureLike,
    x: Values | None = None,
    *,
    axes: NDArray[Any] | None = None,
    labels: Values | None = None,
    stds: float | Sequence[float] = (1.0, 2.0),
    masses: float | Sequence[float] | None = None,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    max_points: int = 2000,
    title: str | None = None,
) -> NDArray[Any]:
    """Draw every pair of features, with the marginal mixture of each.

    Below the diagonal are the points and the ellipses of the two-dimensional marginals, on it the
    one-dimensional densities with histograms. A column of panels shares its window.

    Args:
        mixture: A mixture, a layer, or anything with `weights`, `means` and `scale_tril`.
        x: Rows `(*S, D)` to show.
        axes: Axes `(d, d)` of the d features shown, to draw on and to return; None makes a new
            figure. Those above the diagonal become invisible.
        labels: A class for each row, as for `plot_mixture`.
        stds: Radii of the ellipses in standard deviations.
        masses: Shares of a component that its ellipses hold, in (0, 1), instead of `stds`.
        dims: The features to show, by position or name; None shows all of them.
        columns: Names of the D features.
        max_points: Largest number of points drawn in a panel.
        title: Of the figure that holds the axes.

    Raises:
        InvalidArgumentError: A batch of mixtures, or an argument that does not fit it.
        InvalidDataError: `x` does not consist of numbers.

    Example:
        >>> import torch
        >>> from gmm_lightning import GMMLayer
        >>> from gmm_lightning.plotting import plot_pairs
        >>> axes = plot_pairs(GMMLayer(3, 2), torch.randn(10, 3), columns=("a", "b", "c"))
        >>> axes.shape, axes[2, 1].get_xlabel()
        ((3, 3), 'b')
    """
    whole = components(mixture)
    num_features, num_components = whole.num_features, whole.num_components
    names = feature_names(num_features, columns)
    shown = range(num_features) if dims is None else as_dims(num_features, dims, columns)
    radii, _ = radii_and_names(stds, masses)
    require_integer("max_points", max_points, least=0)
    points, classes = rows_and_labels(x, labels, num_features)
    if len(shown) == 0:
        raise InvalidArgumentError("expected at least one feature in dims, got none")
    grid = _grid(axes, len(shown))
    shades = palette(num_components) if classes is None else (INK,) * num_components
    colors: Any = PAPER_GREY if classes is None else class_colors(classes)
    window = natural_limits(whole, points)
    small = len(shown) > _MAX_NUMBERED
    for i, row in enumerate(shown):
        for j, col in enumerate(shown[: i + 1]):
            ax: Axes = grid[i, j]
            view = feature_view(num_features, (row,) if i == j else (col, row), None)
            parts, rows = view.parts(whole), view.rows(points)
            if i == j:
                draw_histogram(ax, rows[:, 0], classes)
                draw_curves(ax, parts, rows[:, 0], shades, linewidth=1.4)
                ax.set_yticks([])
                ax.spines["left"].set_visible(False)
            else:
                draw_points(ax, rows, colors=colors, max_points=max_points, size=0.6)
                draw_ellipses(ax, parts, radii, shades, linewidth=0.7 if small else 1.0)
                draw_means(ax, parts, shades, size=10 if small else 22, numbers=not small)
                ax.set(ylim=window[row])
            ax.set(xlim=window[col])
            _name_axes(ax, names[col], names[row], bottom=i == len(shown) - 1, left=j == 0 < i)
    # Above the diagonal there is room; a single panel has its legend beside it.
    if classes is not None:
        handles = class_handles(classes)
        if len(shown) == 1:
            add_legend(grid[0, 0], handles)
        elif handles:
            grid[0, 1].legend(handles=handles, loc="upper left", frameon=False)
    if axes is None:
        grid[0, 0].figure.align_ylabels(list(grid[:, 0]))
    if title is not None and grid[0, 0].figure is not None:
        grid[0, 0].figure.suptitle(title)
    return grid


def _grid(axes: NDArray[Any] | None, size: int) -> NDArray[Any]:
    if axes is None:
        side = min(2.3, max(1.2, 16.0 / size)) * size + 0.4
        grid = new_grid(size, size, (max(side, 4.0), max(0.92 * side, 3.2)))
    else:
        grid = np.asarray(axes, dtype=object)
        grid = grid.reshape(1, 1) if size == 1 and grid.size == 1 else grid
        if grid.shape != (size, size) or not all(isinstance(ax, Axes) for ax in grid.flat):
            raise InvalidArgumentError(
                f"expected an array of axes of shape {(size, size)}, one row and column for each "
                f"feature shown, got shape {grid.shape}; figure.subplots({size}, {size}, "
                "squeeze=False) makes one"
            )
    for i, j in zip(*np.triu_indices(size, 1), strict=True):
        # Not removed: it may hold a legend, and the array stays complete.
        grid[i, j].set_axis_off()
    return grid


def _name_axes(ax: Axes, xlabel: str, ylabel: str, *, bottom: bool, left: bool) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    ax.tick_params(labelsize="small", labelbottom=bottom, labelleft=left)
    ax.tick_params(axis="x", labelrotation=0)
    if ax.get_yticks().size:
        ax.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
    # Every panel has axis labels; only those at the edge are visible.
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.label.set_visible(bottom)
    ax.yaxis.label.set_visible(left)

"""Maps of the density of a mixture, or of the norm of its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import MaxNLocator

from gmm_lightning._validation import require_choice, require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import MixtureLike, components, density_of
from gmm_lightning.plotting._points import draw_points
from gmm_lightning.plotting._quantities import QUANTITIES, Quantity, evaluate
from gmm_lightning.plotting._rows import Array, Values, finite_rows
from gmm_lightning.plotting._view import Dims, Limits, feature_view, given_or_natural, grid_of
from gmm_lightning.plotting.figures import add_colorbar, axes_or_new
from gmm_lightning.plotting.palette import palette

_MAX_TICKS = 12


def plot_density(
    mixture: MixtureLike,
    x: Values | None = None,
    *,
    ax: Axes | None = None,
    quantity: str = "density",
    levels: int | Sequence[float] = 12,
    limits: Sequence[Sequence[float]] | None = None,
    resolution: int = 200,
    colorbar: bool = True,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    max_points: int = 5000,
    title: str | None = None,
) -> Axes:
    """Draw the density of a mixture of one or two features, or how steep its logarithm is.

    - One feature: the density, its weighted terms and a histogram of `x`; or `|d log p / dx|`.
    - Two features, `quantity="density"`: filled contours of `-log p(x)`. Levels given as a number
      rise from the smallest value like the square of the distance, so that a lone Gaussian has
      evenly spaced ellipses.
    - Two features, `quantity="gradient_norm"`: filled contours of `|grad log p(x)|`, white at
      modes and saddle points, with arrows of one length along the gradient.

    Args:
        mixture: A mixture, a layer, or anything with `weights`, `means` and `scale_tril`.
        x: Rows `(*S, D)` to show above the contours, or as a histogram.
        ax: Axes to draw on, and to return; None makes a new figure.
        quantity: `density` or `gradient_norm`.
        levels: Number of contour levels, or increasing values, in nats for the density.
        limits: Window `(low, high)` for each feature shown; None holds the rows and three standard
            deviations of each component.
        resolution: Points of the grid along each axis.
        colorbar: Whether to draw a colour bar.
        dims: One or two features to show, by position or name; the rest are integrated out.
        columns: Names of the D features.
        max_points: Largest number of points drawn, evenly spaced through the rows.
        title: Of the axes.

    Raises:
        InvalidArgumentError: More than two features without `dims`, a batch of mixtures, a mixture
            without a density, or another argument that does not fit.
        InvalidDataError: `x` does not consist of numbers.

    Example:
        >>> import torch
        >>> from gmm_lightning import MixtureOfGaussians
        >>> from gmm_lightning.plotting import plot_density
        >>> mixture = MixtureOfGaussians(
        ...     torch.zeros(2), torch.tensor([[0.0, 0.0], [4.0, 1.0]]), torch.eye(2).repeat(2, 1, 1)
        ... )
        >>> ax = plot_density(mixture, dims=[0], columns=("length", "width"))
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('length', 'density')
    """
    whole = components(mixture)
    kind = QUANTITIES[require_choice("quantity", quantity, QUANTITIES)]
    require_integer("resolution", resolution, least=2)
    require_integer("max_points", max_points, least=0)
    view = feature_view(whole.num_features, dims, columns)
    parts, rows = view.parts(whole), view.rows(finite_rows(x, whole.num_features))
    shown = kind(density_of(parts)[0])
    window = given_or_natural(limits, parts, rows)
    ax = axes_or_new(ax, title)
    if view.is_line:
        shown.draw_line(ax, parts, rows[:, 0], palette(whole.num_components))
        if limits is not None:
            ax.set_xlim(window[0])
    else:
        _draw_map(ax, shown, window, levels, resolution, colorbar=colorbar)
        draw_points(ax, rows, colors="#D55E00", max_points=max_points, zorder=3, alpha=0.85)
        ax.set(xlim=window[0], ylim=window[1])
    view.label(ax, shown.line_label)
    return ax


def _draw_map(
    ax: Axes,
    shown: Quantity,
    window: Limits,
    levels: int | Sequence[float],
    resolution: int,
    *,
    colorbar: bool,
) -> None:
    along, points = grid_of(window, resolution)
    values = evaluate(shown, points).reshape(resolution, resolution)
    edges = _levels(levels, values, shown.growth)
    given = not isinstance(levels, int | np.integer)
    # Dark is dense, or steep. Given levels need not reach the ends of the values.
    extend: Any = "both" if given else "neither"
    norm = BoundaryNorm(edges, max(256, len(edges)))
    grid = (*along, values)
    filled = ax.contourf(*grid, levels=edges, cmap=shown.cmap, norm=norm, extend=extend)
    shown.draw_over(ax, window, grid, edges)
    if colorbar:
        # Ticks at round values, not at the edges of the bands, unless those were given.
        ticks = edges if given and len(edges) <= _MAX_TICKS else MaxNLocator(7)
        add_colorbar(ax, filled, shown.label, spacing="proportional", ticks=ticks)


def _levels(levels: int | Sequence[float], values: Array, growth: int) -> Array:
    if isinstance(levels, int | np.integer):
        require_integer("levels", levels, least=1)
        low, high = float(values.min()), float(values.max())
        # Where nothing changes a band of no height would be refused.
        height = max(high - low, 1e-9 * max(1.0, abs(low)))
        return low + height * np.linspace(0.0, 1.0, int(levels) + 1) ** growth
    try:
        edges = np.asarray(levels, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        edges = np.empty(0)
    if len(edges) < 2 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise InvalidArgumentError(
            f"expected levels to be a number, or at least two increasing values, got {levels!r}"
        )
    return edges

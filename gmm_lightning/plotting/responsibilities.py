"""Responsibilities: the probabilities of the components given the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import NDArray

from gmm_lightning._validation import require_choice, require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, MixtureLike, components
from gmm_lightning.plotting._ellipses import draw_ellipses, draw_means
from gmm_lightning.plotting._line import fine_grid
from gmm_lightning.plotting._points import MAX_LEGEND_ENTRIES, add_legend, draw_points
from gmm_lightning.plotting._rows import Array, Values, finite_rows, thin
from gmm_lightning.plotting._view import (
    Dims,
    View,
    feature_names,
    feature_view,
    grid_of,
    natural_limits,
)
from gmm_lightning.plotting.figures import add_colorbar, axes_or_new
from gmm_lightning.plotting.palette import INK, palette, rgb_of

_RESOLUTION = 200


def plot_responsibilities(
    mixture: MixtureLike,
    x: Values | None = None,
    *,
    ax: Axes | None = None,
    kind: str = "map",
    component: int | None = None,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    max_points: int = 5000,
    title: str | None = None,
) -> Axes:
    """Draw the probabilities `r_k(x) = p(k | x)` of the components.

    - `kind="map"`, one feature: `r_k` along the line, stacked to one, and ticks at the rows.
    - `kind="map"`, two features: each row in the mixture `sum_k r_k(x) colour_k` of the components'
      colours, so that uncertain rows are grey between them; without `x`, the plane itself.
    - `kind="rows"`, any number of features: one stacked bar for each row, sorted by component and
      by its probability.

    The probabilities are those given all features; `dims` only chooses where the rows are drawn.

    Args:
        mixture: A mixture, a layer, or anything with `weights`, `means` and `scale_tril`.
        x: Rows `(*S, D)`; optional only for maps of one or two features.
        ax: Axes to draw on, and to return; None makes a new figure.
        kind: `map` or `rows`.
        component: Show the probability of this component alone, with a colour bar.
        dims: For a map, the one or two features to draw, by position or name.
        columns: Names of the D features.
        max_points: Largest number of rows drawn, evenly spaced.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Too many features or no rows for this kind, a batch of mixtures, or
            another argument that does not fit.
        InvalidDataError: `x` does not consist of numbers.

    Example:
        >>> import torch
        >>> from gmm_lightning import GMMLayer
        >>> from gmm_lightning.plotting import plot_responsibilities
        >>> ax = plot_responsibilities(GMMLayer(5, 3), torch.randn(50, 5), kind="rows")
        >>> ax.get_ylabel()
        'responsibility'
    """
    parts = components(mixture)
    num_features, size = parts.num_features, parts.num_components
    feature_names(num_features, columns)
    require_integer("max_points", max_points, least=0)
    parts.density()  # refuses a mixture without a density
    require_choice("kind", kind, ("map", "rows"))
    if component is not None and require_integer("component", component, least=0) >= size:
        raise InvalidArgumentError(f"expected a component in [0, {size}), got {component}")
    if x is None and kind == "rows":
        raise InvalidArgumentError("expected the rows x for kind='rows', got none; pass x")
    points = finite_rows(x, num_features)
    points = points[thin(len(points), max_points)]
    if kind == "rows":
        ax = axes_or_new(ax, title, (8.0, 3.2))
        _draw_bars(ax, parts.responsibilities(points), component)
        return ax
    view = feature_view(num_features, dims, columns, otherwise="use kind='rows'")
    if num_features > len(view.features) and (x is None or view.is_line):
        raise InvalidArgumentError(
            f"expected rows x and two features in dims for a map of {num_features} features, "
            "whose probabilities are no function of fewer; pass both, or take the marginal of "
            "the mixture first"
        )
    ax = axes_or_new(ax, title)
    if view.is_line:
        _draw_stack(ax, view.parts(parts), view.rows(points)[:, 0], component)
    else:
        _draw_plane(ax, view, parts, None if x is None else points, component)
    view.label(ax, "responsibility")
    return ax


def _draw_bars(ax: Axes, r: Array, component: int | None) -> None:
    count = len(r)
    best = r.argmax(axis=1) if component is None else np.zeros(count, dtype=np.intp)
    sure = r.max(axis=1) if component is None else r[:, component]
    r = r[np.lexsort((-sure, best))]
    _stack(ax, np.arange(count + 1), np.concatenate([r, r[-1:]]), component, step="post")
    order = "component" if component is None else f"the responsibility of component {component}"
    ax.set(xlabel=f"rows, sorted by {order}", ylabel="responsibility", xlim=(0, max(count, 1)))


def _draw_stack(ax: Axes, parts: Components, rows: Array, component: int | None) -> None:
    grid = fine_grid(parts, rows)
    _stack(ax, grid, parts.responsibilities(grid[:, None]), component)
    if len(rows) > 0:
        foot = np.full(len(rows), -0.03)
        ax.plot(rows, foot, "|", color=INK, alpha=0.4, markersize=6, clip_on=False)
    ax.set(xlim=(grid[0], grid[-1]), ylim=(-0.06, 1.0))


def _stack(
    ax: Axes, along: NDArray[Any], r: Array, component: int | None, step: str | None = None
) -> None:
    colors = palette(r.shape[1])
    shown = range(r.shape[1]) if component is None else [component]
    style: dict[str, Any] = {"linewidth": 0, "step": step, "rasterized": len(along) > 1000}
    ax.stackplot(along, *(r[:, k] for k in shown), colors=[colors[k] for k in shown], **style)
    ax.set_ylim(0.0, 1.0)
    if len(shown) <= MAX_LEGEND_ENTRIES:
        add_legend(ax, [Patch(color=colors[k], label=f"component {k}") for k in shown])


def _draw_plane(
    ax: Axes, view: View, parts: Components, points: Array | None, component: int | None
) -> None:
    """The rows, or the plane itself, in mixed colours or on a scale of one probability."""
    at, shades = view.parts(parts), palette(parts.num_components)
    rows = view.rows(finite_rows(points, len(view.axes)))
    window = natural_limits(at, rows)
    # dims may have reordered two features: probabilities of rows belong to the original order.
    if points is None:
        r = at.responsibilities(grid_of(window, _RESOLUTION)[1])
    else:
        r = parts.responsibilities(points)
    values, style = r @ rgb_of(shades), {}
    if component is not None:
        shades = (INK,) * parts.num_components
        values, style = r[:, component], {"cmap": "cividis_r", "vmin": 0.0, "vmax": 1.0}
    elif points is None:
        # Faint on the plane, where ellipses lie on top, and full on the dots.
        values = 1.0 - 0.55 * (1.0 - values)
    if points is None:
        image = values.reshape(_RESOLUTION, _RESOLUTION, *values.shape[1:])
        extent = (*window[0], *window[1])
        drawn: Any = ax.imshow(image, extent=extent, origin="lower", aspect="auto", **style)
    else:
        style |= {"size": 1.6, "alpha": 0.9}
        drawn = draw_points(ax, rows, colors=values, max_points=len(rows), **style)
    draw_ellipses(ax, at, (2.0,), shades, fill=0.0)
    draw_means(ax, at, shades, badge=True)
    ax.set(xlim=window[0], ylim=window[1])
    if component is not None and drawn is not None:
        add_colorbar(ax, drawn, f"p(component {component} | x)")

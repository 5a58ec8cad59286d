"""Pictures of a mixture: curves in 1-D, ellipses in 2-D, a projection beyond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, MixtureLike, components
from gmm_lightning.plotting._ellipses import (
    draw_ellipses,
    draw_means,
    draw_radius_names,
    radii_and_names,
)
from gmm_lightning.plotting._line import draw_curves, draw_histogram
from gmm_lightning.plotting._noise import draw_noise, noise_rows
from gmm_lightning.plotting._points import add_legend, class_handles, draw_points
from gmm_lightning.plotting._rows import Array, Values, finite_rows, rows_and_labels, thin
from gmm_lightning.plotting._view import Dims, feature_names, feature_view, principal_view
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import INK, PAPER_GREY, class_colors, palette, rgb_of


def plot_mixture(
    mixture: MixtureLike,
    x: Values | None = None,
    *,
    ax: Axes | None = None,
    labels: Values | None = None,
    mismatches: bool = False,
    noise: Values | None = None,
    initial_means: Values | None = None,
    stds: float | Sequence[float] = (1.0, 2.0),
    masses: float | Sequence[float] | None = None,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    max_points: int = 5000,
    title: str | None = None,
) -> Axes:
    """Draw a mixture, and the data it describes.

    - One feature: the density `sum_k w_k N(x | mu_k, sigma_k^2)`, each weighted term of it, and a
      histogram of `x`.
    - Two features: the points `x` and, for each component, its mean and the ellipses
      `(x - mu_k)' Sigma_k^-1 (x - mu_k) = s^2` for `s` in `stds`; heavier components are more
      opaque.
    - More: the same for the two features in `dims`, or projected on the two axes of largest
      variance of the mixture itself, with their shares of the variance in the axis labels.

    Without `labels` the colours are those of the components; with them, they belong to the labels
    and the components are drawn in dark grey. Components and rows that are not finite are left out.

    Args:
        mixture: A `MixtureOfGaussians` with batch shape (), or anything with its `weights` (K,),
            `means` (K, D) and `scale_tril` (K, D, D). Any device and dtype.
        x: Rows `(*S, D)` to show under the mixture.
        ax: Axes to draw on, and to return; None makes a new figure.
        labels: A class for each row, numbers or names, of which up to twelve get a legend; or
            `"predicted"`, to give each row the colour of its most probable component.
        mismatches: Whether to cross out the rows whose most probable component belongs to another
            class; a component belongs to the class that most of its rows have.
        noise: A mask of the rows that are noise, which plus signs mark; None: those that the noise
            of a layer explains best. The density of one feature is that of the components.
        initial_means: Means `(*S, D)` at the start of a fit, joined to the final ones by dotted
            lines if there is one for each component.
        stds: Radii of the ellipses in standard deviations.
        masses: Shares of a component that its ellipses hold, in (0, 1), instead of `stds`.
        dims: One or two features to show, by position or name; the rest are integrated out.
        columns: Names of the D features; they are not used where the axes are not features.
        max_points: Largest number of points drawn, evenly spaced through the rows.
        title: Of the axes.

    Raises:
        InvalidArgumentError: The mixture is a batch, or another argument does not fit it.
        InvalidDataError: `x` does not consist of numbers.

    Example:
        >>> from gmm_lightning import GMMLayer
        >>> from gmm_lightning.plotting import plot_mixture
        >>> ax = plot_mixture(GMMLayer(2, 2), columns=("length", "width"))
        >>> len(ax.patches), ax.get_xlabel()
        (4, 'length')
    """
    whole = components(mixture)
    num_features, num_components = whole.num_features, whole.num_components
    feature_names(num_features, columns)
    radii, radius_names = radii_and_names(stds, masses)
    require_integer("max_points", max_points, least=0)
    predicted = isinstance(labels, str)
    if predicted and labels != "predicted":
        raise InvalidArgumentError(
            f"expected one label per row or the word 'predicted' for labels, got {describe(labels)}"
        )
    points, classes = rows_and_labels(x, None if predicted else labels, num_features)
    if mismatches and classes is None:
        raise InvalidArgumentError("mismatches are against labels; pass the classes as labels=")
    best = None
    if len(points) > 0 and (mismatches or predicted):
        best = whole.responsibilities(points).argmax(axis=1)
    if dims is None and num_features > 2:
        view = principal_view(whole)
    else:
        view = feature_view(num_features, dims, columns)
    starts = view.rows(finite_rows(initial_means, num_features))
    parts, rows = view.parts(whole), view.rows(points)

    ax = axes_or_new(ax, title)
    shades = palette(num_components) if classes is None else (INK,) * num_components
    kept = ~noise_rows(mixture, points, x, noise)
    if view.is_line:
        draw_histogram(ax, rows[:, 0], *((best, shades) if predicted else (classes, None)))
        draw_curves(ax, parts, rows[:, 0], shades)
    else:
        colors: Any = PAPER_GREY if classes is None else class_colors(classes)
        if predicted and best is not None:
            colors = rgb_of(shades)[best]
        own = colors if isinstance(colors, str) else colors[kept]
        draw_points(ax, rows[kept], colors=own, max_points=max_points)
        draw_ellipses(ax, parts, radii, shades)
        draw_means(ax, parts, shades, badge=predicted)
        draw_radius_names(ax, parts, radii, radius_names)
    handles: list[Line2D] = [] if classes is None else class_handles(classes)
    if not (view.is_line or kept.all()):
        handles.append(draw_noise(ax, rows[~kept], max_points))
    if mismatches and classes is not None and best is not None:
        wrong = _mismatches_of(best, classes, num_components) & kept
        handles.append(_draw_mismatches(ax, rows[wrong], max_points))
    if len(starts) > 0:
        handles.append(_draw_initial_means(ax, starts, parts, shades))
    view.label(ax, "density")
    add_legend(ax, handles)
    return ax


def _mismatches_of(
    best: NDArray[np.intp], classes: NDArray[Any], num_components: int
) -> NDArray[np.bool_]:
    """Mask `(N,)` of the rows whose most probable component belongs to another class.

    A component belongs to the class that most of its rows have: several components may share a
    class, which need not be Gaussian.
    """
    found, codes = np.unique(classes, return_inverse=True)
    counts = np.zeros((num_components, len(found)))
    np.add.at(counts, (best, codes), 1.0)
    return counts.argmax(axis=1)[best] != codes


def _draw_mismatches(ax: Axes, rows: Array, max_points: int) -> Line2D:
    """Cross out rows (N, d) in one or two coordinates, and return the legend entry."""
    keep = rows[thin(len(rows), max_points)]
    style: dict[str, Any] = {"marker": "x", "color": INK, "linestyle": "none"}
    if keep.shape[1] == 1:
        # On a line the rows are a histogram, so the crosses are drawn at its bottom.
        transform, foot = ax.get_xaxis_transform(), np.full(len(keep), 0.02)
        ax.plot(keep[:, 0], foot, transform=transform, markersize=4, zorder=4, **style)
    else:
        ax.scatter(*keep.T, s=22, c=INK, marker="x", linewidths=0.9, zorder=3)
    return Line2D([], [], label=f"mismatch ({len(rows)})", markersize=5, **style)


def _draw_initial_means(
    ax: Axes, starts: Array, parts: Components, colors: Sequence[str]
) -> Line2D:
    """Draw hollow diamonds, joined to the final means if paired; returns the legend entry."""
    paired = len(starts) == len(colors)
    shades = list(colors) if paired else [INK] * len(starts)
    line = starts.shape[1] == 1
    # On a line the diamonds are drawn at the top, away from the curves.
    transform = ax.get_xaxis_transform() if line else ax.transData
    heights = np.full(len(starts), 0.97) if line else starts[:, 1]
    style: dict[str, Any] = {"marker": "D", "markerfacecolor": "white", "linestyle": "none"}
    for at, height, color in zip(starts[:, 0], heights, shades, strict=True):
        ax.plot([at], [height], transform=transform, color=color, markersize=5.5, zorder=5, **style)
    if paired and not line:
        for k, mean in zip(parts.index, parts.means, strict=True):
            path = np.stack([starts[k], mean])
            ax.plot(*path.T, color=colors[k], linestyle=":", linewidth=1.3, zorder=3)
    return Line2D([], [], label="initial mean", color=INK, markersize=5.5, **style)

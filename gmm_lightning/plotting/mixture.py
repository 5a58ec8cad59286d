"""Pictures of a mixture: curves in 1-D, ellipses in 2-D, a projection beyond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import MixtureLike, components
from gmm_lightning.plotting._ellipses import draw_ellipses, draw_means, draw_radius_names
from gmm_lightning.plotting._line import draw_curves, draw_histogram
from gmm_lightning.plotting._mismatches import draw_initial_means, draw_mismatches, mismatches_of
from gmm_lightning.plotting._points import (
    add_legend,
    class_colors,
    class_handles,
    colors_of,
    draw_points,
)
from gmm_lightning.plotting._rows import finite_rows, rows_and_labels
from gmm_lightning.plotting._view import Dims, feature_names, feature_view, principal_view
from gmm_lightning.plotting.figures import INK, PAPER_GREY, axes_or_new
from gmm_lightning.plotting.palette import palette
from gmm_lightning.plotting.radii import radii_and_names


def plot_mixture(
    mixture: MixtureLike,
    x: torch.Tensor | ArrayLike | None = None,
    *,
    ax: Axes | None = None,
    labels: torch.Tensor | ArrayLike | None = None,
    mismatches: bool = False,
    initial_means: torch.Tensor | ArrayLike | None = None,
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
    - More: the same for the two features in `dims`, or after projecting both on the two axes of
      largest variance of the mixture itself, whose shares of the variance stand in the axis labels.

    Without `labels` the colours tell components apart; with them, the colours belong to the labels
    and the components are drawn in dark grey. Components with parameters that are not finite are
    left out, and so are rows that are not finite.

    Shape:
        x `(*S, D)`; labels one entry per row of x; initial_means `(*S, D)`; columns D names.

    Args:
        mixture: A `MixtureOfGaussians` with batch shape (), or anything with its `weights` (K,),
            `means` (K, D) and `scale_tril` (K, D, D). Any device and dtype.
        x: Rows to show under the mixture.
        ax: Axes to draw on; None makes a new figure.
        labels: A class for each row, numbers or names, of which up to twelve get a legend; or
            `"predicted"`, to give each row the colour of its most probable component.
        mismatches: Whether to cross out the rows whose most probable component belongs to another
            class; a component belongs to the class that most of its rows have.
        initial_means: Where a fit started. With one for each component, a dotted line leads from
            there to where it ended.
        stds: Radii of the ellipses in standard deviations.
        masses: Shares of a component that its ellipses hold, in (0, 1), instead of `stds`.
        dims: One or two features to show, by position or name; the rest are integrated out.
        columns: Names of the features; they are not used where the axes are not features.
        max_points: At most this many points are drawn, evenly spaced through the rows.
        title: A title for the axes.

    Returns:
        The axes drawn on.

    Raises:
        InvalidArgumentError: The mixture is a batch, or another argument does not fit it.
        InvalidDataError: `x` does not consist of numbers.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_mixture
        >>> class TwoBlobs:
        ...     weights = torch.tensor([0.3, 0.7])
        ...     means = torch.tensor([[0.0, 0.0], [4.0, 1.0]])
        ...     scale_tril = torch.eye(2).expand(2, 2, 2)
        >>> ax = plot_mixture(TwoBlobs(), columns=("length", "width"))
        >>> len(ax.patches), ax.get_xlabel()
        (4, 'length')
    """
    whole = components(mixture)
    num_features, num_components = whole.means.shape[-1], mixture.weights.shape[-1]
    feature_names(num_features, columns)
    radii, radius_names = radii_and_names(stds, masses)
    require_integer("max_points", max_points, least=0)
    predicted = _asks_for_prediction(labels)
    points, classes = rows_and_labels(x, None if predicted else labels, num_features)
    if mismatches and classes is None:
        raise InvalidArgumentError("mismatches are against labels; pass the classes as labels=")
    wrong, best = None, None
    if len(points) > 0 and (mismatches or predicted):
        wrong, best = mismatches_of(whole, points, classes, num_components)
    if dims is None and num_features > 2:
        view = principal_view(mixture)
    else:
        view = feature_view(num_features, dims, columns)
    starts = view.rows(finite_rows(initial_means, num_features))
    parts, rows = view.parts(whole), view.rows(points)

    ax = axes_or_new(ax)
    shades = palette(num_components) if classes is None else (INK,) * num_components
    if view.is_line:
        used = None if best is None else [shades[k] for k in np.unique(best)]
        draw_histogram(ax, rows[:, 0], *((best, used) if predicted else (classes, None)))
        draw_curves(ax, parts, rows[:, 0], shades)
    else:
        colors: Any = PAPER_GREY if classes is None else class_colors(classes)
        if predicted and best is not None:
            colors = colors_of(best, shades)
        draw_points(ax, rows, colors=colors, max_points=max_points)
        draw_ellipses(ax, parts, radii, shades)
        draw_means(ax, parts, shades, badge=predicted)
        draw_radius_names(ax, parts, radii, radius_names)
    handles: list[Line2D] = [] if classes is None else class_handles(classes)
    if mismatches and wrong is not None:
        handles.append(draw_mismatches(ax, rows[wrong], max_points))
    if len(starts) > 0:
        handles.append(draw_initial_means(ax, starts, parts, shades))
    view.label(ax, "density", title)
    add_legend(ax, handles)
    return ax


def _asks_for_prediction(labels: Any) -> bool:
    if not isinstance(labels, str):
        return False
    if labels != "predicted":
        raise InvalidArgumentError(
            f"expected one label per row or the word 'predicted' for labels, got {labels!r}"
        )
    return True

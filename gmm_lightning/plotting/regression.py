"""Gaussian mixture regression of one feature on another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import regress
from gmm_lightning.plotting._components import MixtureLike, components
from gmm_lightning.plotting._ellipses import draw_ellipses, radii_and_names
from gmm_lightning.plotting._points import draw_points
from gmm_lightning.plotting._rows import Values, finite_rows
from gmm_lightning.plotting._view import Dims, feature_view, grid_of, natural_limits
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import INK, palette


def plot_regression(
    mixture: MixtureLike,
    x: Values | None = None,
    *,
    ax: Axes | None = None,
    dims: Dims | None = None,
    stds: float | Sequence[float] = (1.0, 2.0),
    ellipses: bool = True,
    columns: Sequence[str] | None = None,
    resolution: int = 300,
    max_points: int = 5000,
    title: str | None = None,
) -> Axes:
    """Draw the mean of one feature given another, with bands of its standard deviation.

        E[y | x] +- s sqrt(Var[y | x])    for s in stds

    The variance is that within the components and that between their means, so the band is wide
    where the components disagree.

    Args:
        mixture: A mixture, a layer, or anything with `weights`, `means` and `scale_tril`.
        x: Rows `(*S, D)` to show.
        ax: Axes to draw on, and to return; None makes a new figure.
        dims: Input and output feature, by position or name; None for the first and second of two.
        stds: Half widths of the bands in standard deviations.
        ellipses: Whether to outline the components at two standard deviations.
        columns: Names of the D features.
        resolution: Points of the curve.
        max_points: Largest number of points drawn, evenly spaced through the rows.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Not two features, a batch, or another argument that does not fit.
        InvalidDataError: `x` does not consist of numbers.

    Example:
        >>> import torch
        >>> from gmm_lightning import MixtureOfGaussians
        >>> from gmm_lightning.plotting import plot_regression
        >>> factor = torch.tensor([[1.0, 0.0], [0.5, 0.1]])
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), factor[None])
        >>> ax = plot_regression(mixture)
        >>> x, y = ax.lines[0].get_data()
        >>> bool(abs(y - 0.5 * x).max() < 1e-6)
        True
    """
    whole = components(mixture)
    otherwise = "take the marginal of the input and the output"
    view = feature_view(whole.num_features, dims, columns, allowed=(2,), otherwise=otherwise)
    radii, names = radii_and_names(stds, None)
    require_integer("resolution", resolution, least=2)
    require_integer("max_points", max_points, least=0)
    parts, rows = view.parts(whole), view.rows(finite_rows(x, whole.num_features))
    density, _ = parts.density()
    window = natural_limits(parts, rows)
    (grid,), points = grid_of(window[:1], resolution)
    mean, spread = regress(density, [0], torch.from_numpy(points))
    assert spread is not None
    center, std = mean[:, 0].numpy(), spread[:, 0, 0].sqrt().numpy()

    ax = axes_or_new(ax, title)
    shade = palette(1)[0]
    draw_points(ax, rows, max_points=max_points)
    opacity = 0.28 / max(1, len(radii))
    bands = []
    for depth, (radius, name) in enumerate(sorted(zip(radii, names, strict=True), reverse=True)):
        low, high = center - radius * std, center + radius * std
        ax.fill_between(grid, low, high, color=shade, alpha=opacity, linewidth=0, zorder=2)
        # Nested bands look darker inside, and so do their entries.
        alpha = 1.0 - (1.0 - opacity) ** (depth + 1)
        label = "\N{PLUS-MINUS SIGN} " + name
        bands.append(Patch(facecolor=shade, alpha=alpha, linewidth=0, label=label))
    label = f"E[{view.names[1]} | {view.names[0]}]"
    (line,) = ax.plot(grid, center, color=shade, linewidth=2.0, zorder=3, label=label)
    if ellipses:
        shown, shades = parts.select(parts.weights > 0), (INK,) * whole.num_components
        draw_ellipses(ax, shown, (2.0,), shades, fill=0.0, linewidth=0.8)
    ax.set(xlim=window[0])
    view.label(ax, "")
    handles = [line, *reversed(bands)]
    ax.legend(handles=handles, loc="best", framealpha=0.9, fontsize="small")
    return ax

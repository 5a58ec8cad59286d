"""Components as clouds of nested ellipses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import is_color_like

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import MixtureLike, components
from gmm_lightning.plotting._ellipses import add_ellipse, draw_means, radii_and_names
from gmm_lightning.plotting._view import Dims, feature_view
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import palette


def plot_error_ellipses(
    mixture: MixtureLike,
    *,
    ax: Axes | None = None,
    stds: float | Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    masses: float | Sequence[float] | None = None,
    colors: str | Sequence[str] | None = None,
    alpha: float = 0.25,
    means: bool = True,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw each component as a cloud: filled ellipses on top of each other, without outlines.

    Unlike in `plot_mixture` all components are equally opaque, at any weight; those of
    weight zero are left out.

    Args:
        mixture: A mixture, a layer, or anything with `weights`, `means` and `scale_tril`.
        ax: Axes to draw on, and to return; None makes a new figure.
        stds: Radii of the ellipses in standard deviations.
        masses: Shares of a component that its ellipses hold, in (0, 1), instead of `stds`.
        colors: One for each component, repeated if there are fewer; None for the palette.
        alpha: Opacity of one ellipse; where n of them lie, it is `1 - (1 - alpha)^n`.
        means: Whether to draw the means, with their numbers.
        dims: Two features to show, by position or name; the rest are integrated out.
        columns: Names of the D features.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Not two features, a batch, or another argument that does not fit.

    Example:
        >>> import torch
        >>> from gmm_lightning import MixtureOfGaussians
        >>> from gmm_lightning.plotting import plot_error_ellipses
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), 2 * torch.eye(2)[None])
        >>> ax = plot_error_ellipses(mixture, stds=(1.0, 2.0))
        >>> [patch.get_width() for patch in ax.patches]
        [8.0, 4.0]
    """
    whole = components(mixture)
    radii, _ = radii_and_names(stds, masses)
    view = feature_view(whole.num_features, dims, columns, allowed=(2,), otherwise="use plot_pairs")
    alpha = require_number("alpha", alpha, above=0, most=1)
    given: Any = palette(whole.num_components) if colors is None else colors
    given = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not given or not all(is_color_like(color) for color in given):
        raise InvalidArgumentError(f"expected one or more colours, got {describe(colors)}")
    shades = [given[k % len(given)] for k in range(whole.num_components)]
    parts = view.parts(whole.select(whole.weights > 0))
    ax = axes_or_new(ax, title)
    for j, k in enumerate(parts.index):
        for radius in sorted(radii, reverse=True):
            add_ellipse(ax, parts, j, radius, (shades[k], alpha), linewidth=0)
    ax.autoscale_view()
    if means:
        draw_means(ax, parts, shades, size=25)
    view.label(ax, "")
    return ax

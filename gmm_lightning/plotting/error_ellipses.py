"""Components as clouds of nested ellipses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import is_color_like
from matplotlib.patches import Ellipse

from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._ellipses import draw_means
from gmm_lightning.plotting._geometry import components, ellipse
from gmm_lightning.plotting._view import feature_view
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import palette
from gmm_lightning.plotting.radii import radii_and_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from gmm_lightning.plotting._geometry import MixtureLike
    from gmm_lightning.plotting._view import Dims

__all__ = ["plot_error_ellipses"]

_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def plot_error_ellipses(
    mixture: MixtureLike,
    *,
    ax: Axes | None = None,
    stds: float | Sequence[float] = _FACTORS,
    masses: float | Sequence[float] | None = None,
    colors: str | Sequence[str] | None = None,
    alpha: float = 0.25,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw each component as a cloud: filled ellipses on top of each other, without outlines.

    Unlike in `plot_mixture` all components are equally opaque, whatever their weights; those of
    weight zero are left out.

    Args:
        mixture: A `MixtureOfGaussians` with batch shape (), a `GMMLayer`, or anything with their
            `weights`, `means` and `scale_tril`.
        ax: Axes to draw on; None makes a new figure.
        stds: Radii of the ellipses in standard deviations.
        masses: Shares of a component that its ellipses hold, in (0, 1), instead of `stds`.
        colors: One for each component, repeated if there are fewer; None for the palette.
        alpha: Opacity of one ellipse; where n of them lie, it is `1 - (1 - alpha)^n`.
        dims: Two features to show, by position or name; the rest are integrated out.
        columns: Names of the features.
        title: A title for the axes.

    Returns:
        The axes drawn on.

    Raises:
        InvalidArgumentError: Not two features and no `dims`, a batch of mixtures, or another
            argument that does not fit.

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
    view = feature_view(
        whole.means.shape[-1], dims, columns, allowed=(2,), otherwise="use plot_pairs"
    )
    alpha = require_number("alpha", alpha, above=0, most=1)
    num_components = mixture.weights.shape[-1]
    shades = _shades(colors, num_components)
    parts = view.parts(whole)
    ax = axes_or_new(ax)
    for j in map(int, np.flatnonzero(parts.weights > 0)):
        color = shades[int(parts.index[j])]
        for radius in sorted(radii, reverse=True):
            width, height, angle = ellipse(parts, j, radius)
            center = (float(parts.means[j, 0]), float(parts.means[j, 1]))
            patch = Ellipse(center, width, height, angle=angle, linewidth=0, zorder=2)
            patch.set_facecolor((color, alpha))
            ax.add_patch(patch)
    ax.autoscale_view()
    draw_means(ax, parts.where(parts.weights > 0), shades, size=25)
    ax.set(xlabel=view.names[0], ylabel=view.names[1])
    if title is not None:
        ax.set_title(title)
    return ax


def _shades(colors: str | Sequence[str] | None, num_components: int) -> tuple[str, ...]:
    if colors is None:
        return palette(num_components)
    given: list[Any] = [colors]
    if isinstance(colors, Iterable) and not isinstance(colors, str):
        given = list(colors)
    if not given or not all(is_color_like(color) for color in given):
        raise InvalidArgumentError(f"expected one or more colours, got {colors!r}")
    return tuple(given[k % len(given)] for k in range(num_components))

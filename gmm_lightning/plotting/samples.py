"""Samples of a mixture, and the region they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gmm_lightning._validation import as_generator, require_integer
from gmm_lightning.distributions import Region
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, MixtureLike, components
from gmm_lightning.plotting._ellipses import draw_ellipses, draw_means
from gmm_lightning.plotting._line import draw_curves, draw_histogram
from gmm_lightning.plotting._points import draw_points
from gmm_lightning.plotting._regions import draw_region, finite_ends, project_region
from gmm_lightning.plotting._rows import Array, Values, rows_and_labels
from gmm_lightning.plotting._view import Dims, feature_view, natural_limits
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import PAPER_GREY, palette, rgb_of


def plot_samples(
    mixture: MixtureLike,
    x: Values | int = 1000,
    *,
    ax: Axes | None = None,
    component: Values | None = None,
    within: Region | None = None,
    generator: torch.Generator | int | None = None,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    max_points: int = 5000,
    title: str | None = None,
) -> Axes:
    """Draw samples of a mixture in the colours of their components, and the region they lie in.

    The region is shaded: a `Ball`, `Box` or `HalfSpace` with a dashed outline, a `Shell` or
    `Confidence` about each component in its colour, another region as the mask of its `contains`.
    Outlines of the components at one and two standard deviations show what the samples would be
    without the region. With one feature the samples are a histogram, of area one like the density.
    In fewer features than the mixture has, a region is drawn as its projection.

    Args:
        mixture: A mixture, a layer, or anything with `weights`, `means` and `scale_tril`.
        x: The samples `(*S, D)`, or the number of samples to draw.
        ax: Axes to draw on, and to return; None makes a new figure.
        component: The component `(*S,)` that each sample was drawn from, which gives its colour;
            None for the most probable one. Noise is -1, and grey.
        within: The region, as for `MixtureOfGaussians.sample`.
        generator: Source of randomness, on the CPU, or a seed; None for a fixed one.
        dims: One or two features to show, by position or name.
        columns: Names of the D features.
        max_points: Largest number of points drawn, evenly spaced through the samples.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Too many features, a batch, or another argument that does not fit.
        InvalidDataError: `x` does not consist of numbers.
        RegionError: The mixture does not reach the region.

    Example:
        >>> from gmm_lightning import GMMLayer
        >>> from gmm_lightning.distributions import Ball
        >>> from gmm_lightning.plotting import plot_samples
        >>> ax = plot_samples(GMMLayer(2, 3), 100, within=Ball([1.0, 0.0], radius=0.5))
        >>> len(ax.collections[0].get_offsets())
        100
    """
    whole = components(mixture)
    num_features = whole.num_features
    view = feature_view(num_features, dims, columns, otherwise="draw the samples with plot_pairs")
    require_integer("max_points", max_points, least=0)
    region = None if within is None else project_region(within, num_features, view.features)
    points, drawn = _samples(whole, x, component, within, generator)
    parts, rows = view.parts(whole), view.rows(points)
    window = natural_limits(parts, rows)
    if region is not None:
        inside = parts.means.mean(axis=0) if len(parts.means) else np.zeros(rows.shape[1])
        window = natural_limits(parts, np.concatenate([rows, finite_ends(region, inside)]))

    ax = axes_or_new(ax, title)
    shades = palette(whole.num_components)
    # Noise, -1, has the last one.
    colors = (*shades, PAPER_GREY)
    if view.is_line:
        draw_histogram(ax, rows[:, 0], drawn, colors)
        draw_curves(ax, parts, rows[:, 0], shades, fill=0.0, linewidth=1.4)
    else:
        draw_points(ax, rows, colors=rgb_of(colors)[drawn], max_points=max_points)
        draw_ellipses(ax, parts, (1.0, 2.0), shades, fill=0.0, linewidth=0.8)
        draw_means(ax, parts, shades, badge=True)
        ax.set(ylim=window[1])
    if region is not None:
        draw_region(ax, region, parts, shades, window)
    ax.set(xlim=window[0])
    view.label(ax, "density")
    return ax


def _samples(
    parts: Components,
    x: Values | int,
    component: Values | None,
    within: Region | None,
    generator: torch.Generator | int | None,
) -> tuple[Array, NDArray[np.intp]]:
    """The samples (N, D) and the indices of their components (N,)."""
    if not isinstance(x, int | np.integer) or isinstance(x, bool):
        points, given = rows_and_labels(x, component, parts.num_features)
        if given is not None:
            size, whole = parts.num_components, given.dtype.kind in "iu"
            if len(given) and not (whole and given.min() >= -1 and given.max() < size):
                raise InvalidArgumentError(
                    f"component must hold integers in [0, {size}), or -1 for noise, got "
                    f"{np.unique(given)[:10]}"
                )
            return points, given.astype(np.intp)
        if len(points) == 0:
            return points, np.empty(0, dtype=np.intp)
        return points, parts.responsibilities(points).argmax(axis=1)
    require_integer("the number of samples", x, least=0)
    if component is not None:
        raise InvalidArgumentError("component= goes with the samples; draw them first")
    density, index = parts.density()
    generator = as_generator(0 if generator is None else generator)
    drawn: Any = density.sample(int(x), within=within, return_component=True, generator=generator)
    return drawn[0].numpy(), index[drawn[1].numpy()]

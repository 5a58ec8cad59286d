"""Pictures of draws of mixtures: of a posterior, or of what a prior believes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, components, map_rows
from gmm_lightning.plotting._ellipses import add_ellipse
from gmm_lightning.plotting._line import draw_histogram, fine_grid
from gmm_lightning.plotting._points import draw_points
from gmm_lightning.plotting._rows import Array, Values, finite_rows
from gmm_lightning.plotting._view import Dims, feature_view, given_or_natural, grid_of
from gmm_lightning.plotting.figures import add_colorbar, axes_or_new
from gmm_lightning.plotting.palette import INK, palette


def plot_posterior(
    draws: MixtureOfGaussians,
    x: Values | None = None,
    *,
    ax: Axes | None = None,
    probability: float = 0.9,
    num_ellipses: int = 30,
    limits: Sequence[Sequence[float]] | None = None,
    resolution: int = 100,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    max_draws: int = 200,
    max_points: int = 5000,
    title: str | None = None,
) -> Axes:
    """Draw the mean density of draws of a mixture of one or two features, and how they differ.

    - One feature: the mean density, with a pointwise band that holds it with a probability, and a
      histogram of `x`.
    - Two features: filled contours of the mean density, and ellipses of one standard deviation of
      the components of some draws, the heavier ones darker.

    Args:
        draws: A batch of mixtures: draws of a posterior, or of a prior.
        x: Rows `(*S, D)` to show.
        ax: Axes to draw on, and to return; None makes a new figure.
        probability: Of the band.
        num_ellipses: Draws whose components are shown; 0 shows none.
        limits: Window `(low, high)` for each feature shown; None holds the rows, or without them
            the components.
        resolution: Points of the grid along each axis.
        dims: One or two features to show, by position or name; the rest are integrated out.
        columns: Names of the D features.
        max_draws: Draws that the mean density and the band are taken of, evenly spaced.
        max_points: Largest number of points drawn.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Too many features, a single mixture, or another argument that does
            not fit.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_posterior
        >>> scale = torch.eye(1).expand(20, 2, 1, 1)
        >>> draws = MixtureOfGaussians(torch.zeros(20, 2), torch.randn(20, 2, 1), scale)
        >>> plot_posterior(draws, torch.randn(50, 1)).get_ylabel()
        'density'
    """
    mixtures = _mixtures(draws, require_integer("max_draws", max_draws, least=1))
    require_integer("resolution", resolution, least=2)
    require_integer("num_ellipses", num_ellipses, least=0)
    share = require_number("probability", probability, above=0, most=1)
    num_features = mixtures[0].num_features
    view = feature_view(num_features, dims, columns)
    parts = [view.parts(one) for one in mixtures]
    rows = view.rows(finite_rows(x, num_features))
    ax = axes_or_new(ax, title)
    if view.is_line:
        _draw_band(ax, parts, rows, share)
        if limits is not None:
            ax.set(xlim=limits[0])
    else:
        # Without rows the window is that of all draws together.
        whole = _joined(parts)
        window = given_or_natural(limits, whole, rows)
        if len(rows) and limits is None:
            window = given_or_natural(None, whole.select(np.zeros(len(whole.index), bool)), rows)
        _draw_contours(ax, parts, window, resolution)
        draw_points(ax, rows, colors="#D55E00", max_points=max_points, zorder=3, alpha=0.6)
        _draw_draws(ax, parts, num_ellipses)
        ax.set(xlim=window[0], ylim=window[1])
    view.label(ax, "density")
    return ax


def plot_weight_intervals(
    weights: Values,
    *,
    ax: Axes | None = None,
    probability: float = 0.9,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the weights of the components of draws `(*S, K)`: their means, and an interval of each.

    Args:
        weights: Of aligned draws; or sorted ones, which need no alignment.
        ax: Axes to draw on, and to return; None makes a new figure.
        probability: That an interval holds, between equal tails.
        names: Of the components; None: their numbers.
        title: Of the axes.

    Raises:
        InvalidArgumentError: A probability out of range, or as many names as there are not.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_weight_intervals
        >>> plot_weight_intervals(torch.rand(100, 3).softmax(-1)).get_ylabel()
        'weight'
    """
    share = require_number("probability", probability, above=0, most=1)
    values = np.asarray(torch.as_tensor(weights).detach().cpu(), dtype=np.float64)
    if values.ndim < 2:
        raise InvalidArgumentError(f"expected draws of weights (S, K), got shape {values.shape}")
    values = values.reshape(-1, values.shape[-1])
    k = values.shape[1]
    if names is not None and len(names) != k:
        raise InvalidArgumentError(f"expected {k} names, one for each component, got {len(names)}")
    low, high = np.quantile(values, [0.5 - share / 2, 0.5 + share / 2], axis=0)
    mean, places, colors = values.mean(0), np.arange(k), palette(k)
    ax = axes_or_new(ax, title)
    ax.vlines(places, low, high, colors=colors, linewidth=4, alpha=0.5)
    ax.scatter(places, mean, c=list(colors), edgecolors="white", s=50, zorder=3)
    ax.set_xticks(places, [str(n) for n in (range(k) if names is None else names)])
    ax.set(xlabel="component", ylabel="weight", ylim=(0.0, None))
    return ax


def _mixtures(draws: Any, most: int) -> list[Components]:
    """The components of each draw, of at most so many."""
    if not isinstance(draws, MixtureOfGaussians) or not draws.batch_shape:
        raise InvalidArgumentError(
            "expected draws as a batch of mixtures (S), got "
            f"{type(draws).__name__} of batch shape {tuple(getattr(draws, 'batch_shape', ()))}; "
            "for one mixture use plot_density"
        )
    k, d = draws.means.shape[-2:]
    flat = [
        draws.weights.reshape(-1, k),
        draws.means.reshape(-1, k, d),
        draws.scale_tril.expand(*draws.means.shape, d).reshape(-1, k, d, d),
    ]
    step = max(1, -(-len(flat[0]) // most))
    found = []
    for weights, means, factor in zip(*(one[::step] for one in flat), strict=True):
        found.append(components(MixtureOfGaussians(weights.log(), means, factor)))
    return found


def _joined(parts: Sequence[Components]) -> Components:
    """All components of all draws."""
    names = ("index", "weights", "means", "factors")
    arrays = {name: np.concatenate([getattr(one, name) for one in parts]) for name in names}
    return Components(parts[0].num_components, **arrays)


def _densities(parts: Sequence[Components], points: Array) -> Array:
    """The density of each draw at points `(N, d)`, `(S, N)`."""
    found = []
    for one in parts:
        mixture, _ = one.density()
        found.append(np.exp(map_rows(mixture.log_prob, mixture, points)))
    return np.stack(found)


def _draw_band(ax: Axes, parts: Sequence[Components], rows: Array, share: float) -> None:
    grid = fine_grid(_joined(parts), rows[:, 0])
    if len(rows):
        low, high = rows.min(), rows.max()
        reach = 0.15 * (high - low)
        inside = (grid >= low - reach) & (grid <= high + reach)
        grid = grid[inside] if inside.sum() > 2 else grid
    # Narrow components of many draws add points that nobody sees.
    grid = grid[:: max(1, len(grid) // 1000)]
    densities = _densities(parts, grid[:, None])
    low, high = np.quantile(densities, [0.5 - share / 2, 0.5 + share / 2], axis=0)
    draw_histogram(ax, rows[:, 0])
    color = palette(1)[0]
    label = f"{100 * share:g}% of the draws"
    ax.fill_between(grid, low, high, color=color, alpha=0.3, linewidth=0, zorder=2, label=label)
    ax.plot(grid, densities.mean(0), color=INK, linewidth=1.8, zorder=3, label="mean density")
    ax.legend(frameon=False)
    ax.set_ylim(bottom=0.0)


def _draw_contours(ax: Axes, parts: Sequence[Components], window: Array, resolution: int) -> None:
    along, points = grid_of(window, resolution)
    mean = _densities(parts, points).mean(0).reshape(resolution, resolution)
    # Where no draw has a density, there is nothing to show.
    shown = -np.log(np.maximum(mean, mean.max() * 1e-6))
    low, high = float(shown.min()), float(shown.max())
    height = max(high - low, 1e-9 * max(1.0, abs(low)))
    edges = low + height * np.linspace(0.0, 1.0, 13) ** 2
    contours = ax.contourf(*along, shown, levels=edges, cmap="Blues_r")
    add_colorbar(ax, contours, "negative log of the mean density (nats)", spacing="proportional")


def _draw_draws(ax: Axes, parts: Sequence[Components], number: int) -> None:
    """Ellipses of one standard deviation of some draws."""
    if not number:
        return
    for one in parts[:: max(1, -(-len(parts) // number))]:
        heaviest = one.weights.max(initial=1e-12)
        for j in range(len(one.index)):
            opacity = 0.7 * float(one.weights[j] / heaviest)
            edge = ("white", opacity)
            add_ellipse(ax, one, j, 1.0, "none", edgecolor=edge, linewidth=0.8)

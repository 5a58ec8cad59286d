"""Maps of the density of a mixture, or of the norm of its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_choice, require_integer
from gmm_lightning.distributions import MixtureOfGaussians, grad_log_prob
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, MixtureLike, components, map_rows
from gmm_lightning.plotting._line import draw_curves, draw_histogram, fine_grid
from gmm_lightning.plotting._points import draw_points
from gmm_lightning.plotting._rows import Array, Values, finite_rows
from gmm_lightning.plotting._view import Dims, feature_view, given_or_natural, grid_of
from gmm_lightning.plotting.figures import add_colorbar, axes_or_new
from gmm_lightning.plotting.palette import INK, palette

_ARROWS, _MAX_TICKS = 22, 12


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
    """Draw the density of a mixture of one or two features, or the norm of its score.

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
        InvalidArgumentError: Too many features, a batch of mixtures, a mixture without a density,
            or another argument that does not fit.
        InvalidDataError: `x` does not consist of numbers.

    Example:
        >>> from gmm_lightning import GMMLayer
        >>> from gmm_lightning.plotting import plot_density
        >>> ax = plot_density(GMMLayer(2, 3), dims=[0], columns=("length", "width"))
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('length', 'density')
    """
    whole = components(mixture)
    levels = int(levels) if isinstance(levels, np.integer) else levels
    kind = _QUANTITIES[require_choice("quantity", quantity, _QUANTITIES)]
    require_integer("resolution", resolution, least=2)
    require_integer("max_points", max_points, least=0)
    view = feature_view(whole.num_features, dims, columns)
    parts, rows = view.parts(whole), view.rows(finite_rows(x, whole.num_features))
    shown = kind(parts.density()[0])
    window = given_or_natural(limits, parts, rows)
    ax = axes_or_new(ax, title)
    if view.is_line:
        shown.draw_line(ax, parts, rows[:, 0], palette(whole.num_components))
        if limits is not None:
            ax.set(xlim=window[0])
    else:
        contours = _draw_map(ax, shown, window, levels, resolution)
        if colorbar:
            # Ticks at round values, not at the edges of the bands, unless levels are given.
            given = not isinstance(levels, int) and len(contours.levels) <= _MAX_TICKS
            ticks = contours.levels if given else MaxNLocator(7)
            add_colorbar(ax, contours, shown.label, spacing="proportional", ticks=ticks)
        draw_points(ax, rows, colors="#D55E00", max_points=max_points, zorder=3, alpha=0.85)
        ax.set(xlim=window[0], ylim=window[1])
    view.label(ax, shown.line_label)
    return ax


@dataclass(frozen=True)
class _NegativeLogDensity:
    """Contours, or curves for one feature; levels rise like squares of equal steps."""

    density: MixtureOfGaussians
    label: ClassVar[str] = "negative log density (nats)"
    line_label: ClassVar[str] = "density"
    cmap: ClassVar[str] = "Blues_r"
    growth: ClassVar[int] = 2

    def values(self, points: Tensor) -> Tensor:
        return -self.density.log_prob(points)

    def draw_line(self, ax: Axes, parts: Components, rows: Array, colors: Sequence[str]) -> None:
        draw_histogram(ax, rows)
        draw_curves(ax, parts, rows, colors)

    def draw_over(self, ax: Axes, window: Array, grid: Any, levels: Array) -> None:
        ax.contour(*grid, levels=levels, colors="white", linewidths=0.5, alpha=0.6)


@dataclass(frozen=True)
class _ScoreNorm:
    """Contours with arrows of one length along the score, or its absolute value on a line."""

    density: MixtureOfGaussians
    label: ClassVar[str] = "norm of the gradient of log p"
    line_label: ClassVar[str] = "|d log p / dx|"
    cmap: ClassVar[str] = "Purples"
    growth: ClassVar[int] = 1

    def values(self, points: Tensor) -> Tensor:
        return torch.linalg.vector_norm(grad_log_prob(self.density, points), dim=-1)

    def draw_line(self, ax: Axes, parts: Components, rows: Array, colors: Sequence[str]) -> None:
        grid = fine_grid(parts, rows)
        ax.plot(grid, _evaluate(self, grid[:, None]), color=INK, linewidth=1.8)
        ax.set_ylim(bottom=0.0)

    def draw_over(self, ax: Axes, window: Array, grid: Any, levels: Array) -> None:
        size = _ARROWS + 2
        points = grid_of(window, size)[1].reshape(size, size, 2)[1:-1, 1:-1].reshape(-1, 2)
        steps: Any = grad_log_prob(self.density, torch.from_numpy(points)).numpy()
        steps = steps / np.array([high - low for low, high in window])
        lengths = np.linalg.norm(steps, axis=1, keepdims=True)
        steps = np.divide(steps, lengths, out=np.zeros_like(steps), where=lengths > 0)
        style: dict[str, Any] = {"color": INK, "alpha": 0.6, "width": 0.003, "zorder": 2}
        ax.quiver(*points.T, *steps.T, angles="uv", pivot="mid", scale=1.3 * _ARROWS, **style)


_Quantity = _NegativeLogDensity | _ScoreNorm
_QUANTITIES = {"density": _NegativeLogDensity, "gradient_norm": _ScoreNorm}


def _evaluate(quantity: _Quantity, points: Array) -> Array:
    """The values at points (N, d), which must all be finite."""
    values = map_rows(quantity.values, quantity.density, points)
    if not np.isfinite(values).all():
        raise InvalidArgumentError(
            "the limits reach so far from every component that float64 holds no density there; "
            "give closer ones"
        )
    return values


def _draw_map(
    ax: Axes, shown: _Quantity, window: Array, levels: int | Sequence[float], resolution: int
) -> Any:
    """Filled contours, with lines or arrows over them."""
    along, points = grid_of(window, resolution)
    values = _evaluate(shown, points).reshape(resolution, resolution)
    edges = _levels(levels, values, shown.growth)
    # Dark is dense, or steep. Given levels need not reach the ends of the values.
    extend: Any = "neither" if isinstance(levels, int) else "both"
    norm = BoundaryNorm(edges, max(256, len(edges)))
    grid = (*along, values)
    contours = ax.contourf(*grid, levels=edges, cmap=shown.cmap, norm=norm, extend=extend)
    shown.draw_over(ax, window, grid, edges)
    return contours


def _levels(levels: int | Sequence[float], values: Array, growth: int) -> Array:
    if isinstance(levels, int):
        require_integer("levels", levels, least=1)
        low, high = float(values.min()), float(values.max())
        # For constant values a band without height would be refused.
        height = max(high - low, 1e-9 * max(1.0, abs(low)))
        return low + height * np.linspace(0.0, 1.0, levels + 1) ** growth
    try:
        edges = np.asarray(levels, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        edges = np.empty(0)
    if len(edges) < 2 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise InvalidArgumentError(
            "expected levels to be a number, or at least two increasing values, got "
            f"{describe(levels)}"
        )
    return edges

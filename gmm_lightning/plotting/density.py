"""The density of a mixture, and how steep it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import MaxNLocator

from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import grad_log_prob
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._curves import draw_curves, draw_histogram, fine_grid
from gmm_lightning.plotting._geometry import components, density_of
from gmm_lightning.plotting._limits import given_or_natural, grid_of
from gmm_lightning.plotting._points import draw_points
from gmm_lightning.plotting._rows import finite_rows
from gmm_lightning.plotting._view import feature_view
from gmm_lightning.plotting.figures import INK, axes_or_new
from gmm_lightning.plotting.palette import palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    from gmm_lightning.distributions import MixtureOfGaussians
    from gmm_lightning.plotting._geometry import Components, MixtureLike
    from gmm_lightning.plotting._limits import Limits
    from gmm_lightning.plotting._view import Dims

__all__ = ["plot_density"]

_QUANTITIES = {
    "density": "negative log density (nats)",
    "gradient_norm": "norm of the gradient of log p",
}
_ARROWS = 22
_MOST_TICKS = 12


def plot_density(
    mixture: MixtureLike,
    x: torch.Tensor | ArrayLike | None = None,
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

    Shape:
        x `(*S, D)`; limits one pair for each feature shown; columns D names.

    Args:
        mixture: A `MixtureOfGaussians` with batch shape (), a `GMMLayer`, or anything with their
            `weights`, `means` and `scale_tril`.
        x: Rows to show above the contours, or as a histogram.
        ax: Axes to draw on; None makes a new figure.
        quantity: `density` or `gradient_norm`.
        levels: How many levels the contours have, or increasing values, in nats for the density.
        limits: Window `((low, high), (low, high))`; None holds the rows and three standard
            deviations of each component.
        resolution: Points of the grid along each axis.
        colorbar: Whether the values of the colours stand beside the axes.
        dims: One or two features to show, by position or name; the rest are integrated out.
        columns: Names of the features.
        max_points: At most this many points are drawn, evenly spaced through the rows.
        title: A title for the axes.

    Returns:
        The axes drawn on.

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
    num_features = whole.means.shape[-1]
    if quantity not in _QUANTITIES:
        known = ", ".join(_QUANTITIES)
        raise InvalidArgumentError(f"unknown quantity {quantity!r}; known are: {known}")
    require_integer("resolution", resolution, least=2)
    require_integer("max_points", max_points, least=0)
    view = feature_view(num_features, dims, columns)
    parts, rows = view.parts(whole), view.rows(finite_rows(x, num_features))
    density = density_of(parts)[0]
    window = given_or_natural(limits, parts, rows)

    ax = axes_or_new(ax)
    if view.size == 1:
        if quantity == "density":
            draw_histogram(ax, rows[:, 0])
            draw_curves(ax, parts, rows[:, 0], palette(mixture.weights.shape[-1]))
        else:
            _draw_slope(ax, parts, density, rows)
        if limits is not None:
            ax.set_xlim(window[0])
    else:
        along, points = grid_of(window, resolution)
        values = _values(density, points, quantity).reshape(resolution, resolution)
        edges = _levels(levels, values, quantity)
        given = not isinstance(levels, int | np.integer)
        # Dark is dense, or steep. Given levels need not reach the ends of what there is.
        filled = ax.contourf(
            *along,
            values,
            levels=edges,
            cmap=_CMAPS[quantity],
            norm=BoundaryNorm(edges, max(256, len(edges))),
            extend="both" if given else "neither",
        )
        if quantity == "density":
            ax.contour(*along, values, levels=edges, colors="white", linewidths=0.5, alpha=0.6)
        else:
            _draw_arrows(ax, density, window)
        draw_points(ax, rows, colors="#D55E00", max_points=max_points, zorder=3, alpha=0.85)
        ax.set(xlim=window[0], ylim=window[1])
        if colorbar and ax.figure is not None:
            # Ticks at round values, not at the edges of the bands, unless those were given.
            bar = ax.figure.colorbar(
                filled,
                ax=ax,
                label=_QUANTITIES[quantity],
                spacing="proportional",
                ticks=edges if given and len(edges) <= _MOST_TICKS else MaxNLocator(7),
            )
            bar.minorticks_off()
            bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    ax.set_xlabel(view.names[0])
    one = "density" if quantity == "density" else "|d log p / dx|"
    ax.set_ylabel(one if view.size == 1 else view.names[1])
    if title is not None:
        ax.set_title(title)
    return ax


_CMAPS = {"density": "Blues_r", "gradient_norm": "Purples"}


def _values(density: MixtureOfGaussians, points: NDArray[np.float64], quantity: str) -> NDArray:
    found = [
        -density.log_prob(part)
        if quantity == "density"
        else torch.linalg.vector_norm(grad_log_prob(density, part), dim=-1)
        for part in torch.from_numpy(points).split(_portion(density))
    ]
    values = torch.cat(found)
    if not bool(values.isfinite().all()):
        raise InvalidArgumentError(
            "the limits reach so far from every component that float64 holds no density there; "
            "give closer ones"
        )
    return values.numpy()


def _portion(density: MixtureOfGaussians) -> int:
    return max(1, (1 << 22) // density.scale.numel())


def _levels(
    levels: int | Sequence[float], values: NDArray[np.float64], quantity: str
) -> NDArray[np.float64]:
    if isinstance(levels, int | np.integer):
        require_integer("levels", levels, least=1)
        low, high = float(values.min()), float(values.max())
        steps = np.linspace(0.0, 1.0, int(levels) + 1)
        # Where nothing changes a band of no height would be refused.
        height = max(high - low, 1e-9 * max(1.0, abs(low)))
        return low + height * (steps**2 if quantity == "density" else steps)
    try:
        edges = np.asarray(levels, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        edges = np.empty(0)
    if len(edges) < 2 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise InvalidArgumentError(
            f"expected levels to be a number, or at least two increasing values, got {levels!r}"
        )
    return edges


def _draw_slope(
    ax: Axes, parts: Components, density: MixtureOfGaussians, rows: NDArray[np.float64]
) -> None:
    grid = fine_grid(parts, rows[:, 0])
    values = _values(density, grid[:, None], "gradient_norm")
    ax.plot(grid, values, color=INK, linewidth=1.8)
    ax.set_ylim(bottom=0.0)


def _draw_arrows(ax: Axes, density: MixtureOfGaussians, window: Limits) -> None:
    along, points = grid_of(window, _ARROWS + 2)
    steps: Any = grad_log_prob(density, torch.from_numpy(points)).numpy()
    # All of one length in the picture: the colour tells the size, the arrow only where to.
    spans = np.array([high - low for low, high in window])
    steps = steps / spans
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    steps = np.divide(steps, lengths, out=np.zeros_like(steps), where=lengths > 0)
    inner = np.zeros((len(along[1]), len(along[0])), dtype=bool)
    inner[1:-1, 1:-1] = True
    ax.quiver(
        *points[inner.ravel()].T,
        *steps[inner.ravel()].T,
        color=INK,
        alpha=0.6,
        angles="uv",
        pivot="mid",
        scale=1.3 * _ARROWS,
        width=0.003,
        zorder=2,
    )

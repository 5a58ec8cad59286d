"""The quantities of a density plot: the negative log density, and the norm of the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from gmm_lightning.distributions import MixtureOfGaussians, grad_log_prob
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components, map_rows
from gmm_lightning.plotting._line import draw_curves, draw_histogram, fine_grid
from gmm_lightning.plotting._rows import Array
from gmm_lightning.plotting._view import Limits, grid_of
from gmm_lightning.plotting.palette import INK

_ARROWS = 22


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

    def draw_over(self, ax: Axes, window: Limits, grid: Any, levels: Array) -> None:
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
        ax.plot(grid, evaluate(self, grid[:, None]), color=INK, linewidth=1.8)
        ax.set_ylim(bottom=0.0)

    def draw_over(self, ax: Axes, window: Limits, grid: Any, levels: Array) -> None:
        size = _ARROWS + 2
        points = grid_of(window, size)[1].reshape(size, size, 2)[1:-1, 1:-1].reshape(-1, 2)
        steps: Any = grad_log_prob(self.density, torch.from_numpy(points)).numpy()
        steps = steps / np.array([high - low for low, high in window])
        lengths = np.linalg.norm(steps, axis=1, keepdims=True)
        steps = np.divide(steps, lengths, out=np.zeros_like(steps), where=lengths > 0)
        style: dict[str, Any] = {"color": INK, "alpha": 0.6, "width": 0.003, "zorder": 2}
        ax.quiver(*points.T, *steps.T, angles="uv", pivot="mid", scale=1.3 * _ARROWS, **style)


Quantity = _NegativeLogDensity | _ScoreNorm
QUANTITIES: dict[str, type[Quantity]] = {
    "density": _NegativeLogDensity,
    "gradient_norm": _ScoreNorm,
}


def evaluate(quantity: Quantity, points: Array) -> Array:
    """The values at points (N, d), which must all be finite."""
    values = map_rows(quantity.values, quantity.density, points)
    if not np.isfinite(values).all():
        raise InvalidArgumentError(
            "the limits reach so far from every component that float64 holds no density there; "
            "give closer ones"
        )
    return values

"""The quantities of a density plot: the negative log density, and the norm of the score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.distributions import MixtureOfGaussians, grad_log_prob
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components
from gmm_lightning.plotting._limits import Limits, grid_of
from gmm_lightning.plotting._line import draw_curves, draw_histogram, fine_grid
from gmm_lightning.plotting.figures import INK

_ARROWS = 22


class Quantity(ABC):
    """A function of the plane or the line, and how it is drawn.

    Attributes:
        label: Of the colour bar.
        line_label: Of the second axis, for one feature.
        cmap: Matplotlib's name of the colours.
        growth: Levels rise like this power of equal steps.
    """

    label: ClassVar[str]
    line_label: ClassVar[str]
    cmap: ClassVar[str]
    growth: ClassVar[int]

    def __init__(self, density: MixtureOfGaussians) -> None:
        self.density = density

    @abstractmethod
    def values(self, points: Tensor) -> Tensor:
        """The values at points (n, d)."""

    @abstractmethod
    def draw_line(
        self, ax: Axes, parts: Components, rows: NDArray[np.float64], colors: Sequence[str]
    ) -> None:
        """Draw it for one feature, with rows (N,)."""

    @abstractmethod
    def draw_over(self, ax: Axes, window: Limits, grid: Any, levels: NDArray[np.float64]) -> None:
        """Draw over the filled contours of `grid`, the arguments of `Axes.contour`."""

    def evaluate(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values at any number of points.

        Raises:
            InvalidArgumentError: One of them is not finite.
        """
        size = rows_per_chunk(self.density.scale.numel(), self.density.means, in_cache=False)
        chunks = torch.from_numpy(points).split(size)
        values = torch.cat([self.values(chunk) for chunk in chunks]).numpy()
        if not np.isfinite(values).all():
            raise InvalidArgumentError(
                "the limits reach so far from every component that float64 holds no density there; "
                "give closer ones"
            )
        return values


class _NegativeLogDensity(Quantity):
    label, line_label = "negative log density (nats)", "density"
    cmap, growth = "Blues_r", 2

    def values(self, points: Tensor) -> Tensor:
        return -self.density.log_prob(points)

    def draw_line(
        self, ax: Axes, parts: Components, rows: NDArray[np.float64], colors: Sequence[str]
    ) -> None:
        draw_histogram(ax, rows)
        draw_curves(ax, parts, rows, colors)

    def draw_over(self, ax: Axes, window: Limits, grid: Any, levels: NDArray[np.float64]) -> None:
        ax.contour(*grid, levels=levels, colors="white", linewidths=0.5, alpha=0.6)


class _ScoreNorm(Quantity):
    label, line_label = "norm of the gradient of log p", "|d log p / dx|"
    cmap, growth = "Purples", 1

    def values(self, points: Tensor) -> Tensor:
        return torch.linalg.vector_norm(grad_log_prob(self.density, points), dim=-1)

    def draw_line(
        self, ax: Axes, parts: Components, rows: NDArray[np.float64], colors: Sequence[str]
    ) -> None:
        grid = fine_grid(parts, rows)
        ax.plot(grid, self.evaluate(grid[:, None]), color=INK, linewidth=1.8)
        ax.set_ylim(bottom=0.0)

    def draw_over(self, ax: Axes, window: Limits, grid: Any, levels: NDArray[np.float64]) -> None:
        size = _ARROWS + 2
        points = grid_of(window, size)[1].reshape(size, size, 2)[1:-1, 1:-1].reshape(-1, 2)
        steps: Any = grad_log_prob(self.density, torch.from_numpy(points)).numpy()
        # All of one length in the picture: the colours show the norm, arrows the direction.
        steps = steps / np.array([high - low for low, high in window])
        lengths = np.linalg.norm(steps, axis=1, keepdims=True)
        steps = np.divide(steps, lengths, out=np.zeros_like(steps), where=lengths > 0)
        style: dict[str, Any] = {"color": INK, "alpha": 0.6, "width": 0.003, "zorder": 2}
        ax.quiver(*points.T, *steps.T, angles="uv", pivot="mid", scale=1.3 * _ARROWS, **style)


QUANTITIES = {"density": _NegativeLogDensity, "gradient_norm": _ScoreNorm}

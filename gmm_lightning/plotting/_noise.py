"""Rows of noise in a picture: which they are, and their marks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gmm_lightning.plotting._rows import Array, Values, rows_and_labels, thin
from gmm_lightning.plotting.palette import PAPER_GREY


def noise_rows(
    mixture: Any, points: Array, x: Values | None, noise: Values | None
) -> NDArray[np.bool_]:
    """Mask of the rows that are noise: the given one, or what a layer's noise explains best.

    Args:
        mixture: whose `noise_probability` is asked where it has noise.
        points: the finite ones of the rows, `(N, D)`.
        x: the rows.
        noise: a mask of the rows, or None.
    """
    if noise is not None:
        _, given = rows_and_labels(x, noise, points.shape[-1])
        assert given is not None
        return given.astype(bool)
    if getattr(mixture, "noise", None) is None or not len(points):
        return np.zeros(len(points), dtype=bool)
    with torch.no_grad():
        probability = mixture.noise_probability(torch.from_numpy(points).to(mixture.means))
    return (probability > 0.5).cpu().numpy()


def draw_noise(ax: Axes, rows: Array, max_points: int) -> Line2D:
    """Mark rows (N, 2) of noise by small grey plus signs, and return the legend entry."""
    style: dict[str, Any] = {"marker": "+", "color": PAPER_GREY}
    keep = rows[thin(len(rows), max_points)]
    ax.scatter(*keep.T, s=16, linewidths=0.8, zorder=1, **style)
    return Line2D([], [], label=f"noise ({len(rows)})", linestyle="none", markersize=5, **style)

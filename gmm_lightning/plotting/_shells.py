"""Shells about the components, as rings in the plane and intervals on the line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from gmm_lightning.distributions import radius_beyond

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from gmm_lightning.distributions import Confidence, Shell
    from gmm_lightning.plotting._geometry import Components

__all__ = ["bands", "draw_shells"]

_FILL = 0.12
_OPEN_SHARE = 0.01


def draw_shells(
    ax: Axes, region: Shell | Confidence, parts: Components, colors: Sequence[str], full: int
) -> None:
    """Shade the shell of each component in its colour and outline its ends.

    A shell without an outer end is shaded as far as 99 % of its rows lie, without an outline there.

    Args:
        ax: Axes to draw on.
        region: The range of radii.
        parts: Components in the one or two coordinates drawn.
        colors: One for each of the K components.
        full: The number of features, D; in fewer coordinates shells are seen from the side.
    """
    low, high = region.radii(full)
    reach = high if math.isfinite(high) else radius_beyond(low, _OPEN_SHARE, full)
    # Seen from the side a shell is as full as a ball.
    low = low if parts.means.shape[-1] == full else 0.0
    for j in np.flatnonzero(parts.weights > 0):
        mean, color = parts.means[j], colors[int(parts.index[j])]
        root = _symmetric_root(parts.covariances[j])
        if len(mean) == 1:
            at, std = float(mean[0]), float(root[0, 0])
            spans = [(at + low * std, at + reach * std), (at - reach * std, at - low * std)]
            filled = bands(ax, spans if low > 0 else [(spans[1][0], spans[0][1])])
            ends = [at + s * r * std for r in (low, high) for s in (-1, 1) if _is_end(r)]
            for end in ends:
                ax.axvline(end, color=color, alpha=0.8, linewidth=1.2, zorder=0.5)
        else:
            rims = [_rim(mean, root, reach)]
            if low > 0:
                # Backwards: matplotlib leaves out what opposite turns enclose.
                rims.append(_rim(mean, root, low, step=-1))
            filled = PathPatch(Path.make_compound_path(*rims))
            ax.add_patch(filled)
            for radius in filter(_is_end, (low, high)):
                rim = PathPatch(_rim(mean, root, radius), fill=False, zorder=0.5)
                rim.set(edgecolor=(color, 0.8), linewidth=1.2)
                ax.add_patch(rim)
        filled.set(facecolor=(color, _FILL), linewidth=0, zorder=0.5)


def bands(ax: Axes, spans: Sequence[tuple[float, float]]) -> PathPatch:
    """Intervals as one patch over the whole height; its ends above and below cannot be seen."""
    boxes = [
        Path([(a, -0.1), (b, -0.1), (b, 1.1), (a, 1.1), (a, -0.1)], closed=True) for a, b in spans
    ]
    path = Path.make_compound_path(*boxes) if boxes else Path(np.empty((0, 2)))
    # The transform is that of the axes' height, so the patch must not be added as data.
    patch = PathPatch(path, transform=ax.get_xaxis_transform())
    ax.add_artist(patch)
    patch.set_clip_path(ax.patch)
    return patch


def _is_end(radius: float) -> bool:
    return 0 < radius < math.inf


def _rim(
    mean: NDArray[np.float64], root: NDArray[np.float64], radius: float, step: int = 1
) -> Path:
    circle = Path.unit_circle()
    vertices, codes = np.asarray(circle.vertices)[:-1], np.asarray(circle.codes)[:-1]
    return Path((mean + radius * vertices @ root)[::step], codes)


def _symmetric_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A root that never mirrors, so that all rims turn the way they are meant to."""
    variances, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(variances, 0.0)) @ vectors.T

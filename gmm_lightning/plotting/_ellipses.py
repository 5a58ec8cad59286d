"""Components in the plane: ellipses, means and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from gmm_lightning.plotting._components import Components
from gmm_lightning.plotting.figures import INK

_MAX_NUMBERS = 30
_MAX_BADGES = 12

# A white rim keeps small text legible on points and lines.
_HALO = (withStroke(linewidth=2.0, foreground="white"),)


def add_ellipse(
    ax: Axes, parts: Components, j: int, radius: float, facecolor: Any, **style: Any
) -> None:
    """Add component j as an ellipse at a Mahalanobis radius."""
    width, height, angle = parts.ellipses[j]
    center = (float(parts.means[j, 0]), float(parts.means[j, 1]))
    patch = Ellipse(center, radius * width, radius * height, angle=angle, zorder=2)
    ax.add_patch(patch).set(facecolor=facecolor, **style)


def draw_ellipses(
    ax: Axes,
    parts: Components,
    radii: Sequence[float],
    colors: Sequence[str],
    *,
    fill: float = 0.3,
    linewidth: float = 1.2,
) -> None:
    """Ellipses at the radii, the largest first; the heavier a component, the more opaque.

    `fill` is the opacity at the heart of the heaviest component; 0 leaves outlines.
    """
    strength = _relative_weights(parts)
    # Fills of many overlapping components add up to mud, so they share what opacity there is.
    fill = fill / max(1.0, len(strength) / 4) / max(1, len(radii))
    # Beyond a handful of components the outer outlines are what makes a picture unreadable.
    faint, inner = min(0.8, 4.0 / max(1, len(strength))), min(radii, default=0.0)
    for j, k in enumerate(map(int, parts.index)):
        for radius in sorted(radii, reverse=True):
            outline = (0.25 + 0.7 * float(strength[j])) * (1.0 if radius == inner else faint)
            face, edge = (colors[k], fill * float(strength[j])), (colors[k], outline)
            add_ellipse(ax, parts, j, radius, face, edgecolor=edge, linewidth=linewidth)
    ax.autoscale_view()


def draw_means(
    ax: Axes,
    parts: Components,
    colors: Sequence[str],
    *,
    size: float = 40,
    numbers: bool = True,
    badge: bool = False,
) -> None:
    """A dot at each mean and, unless there are too many, the number of its component.

    As a badge the number stands within a white dot, to be seen among points of its own colour.
    """
    shades = [colors[int(k)] for k in parts.index]
    if not shades:
        return
    numbers = numbers and len(shades) <= _MAX_NUMBERS
    badge = badge and numbers and len(shades) <= _MAX_BADGES
    style: dict[str, Any] = {"c": shades, "edgecolors": "white", "s": size}
    style["linewidths"] = 1.2 * min(1.0, size / 40)
    text: dict[str, Any] = {"xytext": (5, 5)}
    if badge:
        style = {"c": "white", "edgecolors": shades, "s": 130, "linewidths": 1.5}
        text = {"xytext": (0, 0), "ha": "center", "va": "center_baseline"}
    ax.scatter(*parts.means.T, zorder=4, **style)
    if numbers:
        for k, (x, y) in zip(parts.index, parts.means.tolist(), strict=True):
            _write(ax, str(int(k)), (x, y), textcoords="offset points", fontsize=8, **text)


def draw_radius_names(
    ax: Axes, parts: Components, radii: Sequence[float], names: Sequence[str]
) -> None:
    """Write the name of each outline once, at the foot of the lowest of the heavy components."""
    if len(parts.index) == 0:
        return
    drop = np.sqrt(np.maximum(parts.covariances[:, 1, 1], 0.0))
    feet = parts.means[:, 1] - max(radii, default=0.0) * drop
    j = int(np.where(_relative_weights(parts) >= 0.5, feet, np.inf).argmin())
    if not drop[j] > 0:
        return
    for radius, name in zip(radii, names, strict=True):
        # The lowest point of the ellipse: there the outline runs level, like the text.
        x = parts.means[j, 0] - radius * parts.covariances[j, 0, 1] / drop[j]
        y = parts.means[j, 1] - radius * drop[j]
        at = (float(x), float(y))
        _write(ax, name, at, ha="center", va="center", fontsize=7, color=INK)


def _relative_weights(parts: Components) -> NDArray[np.float64]:
    """The weights relative to the largest one, in [0, 1]."""
    return parts.weights / max(parts.weights.max(initial=0.0), np.finfo(np.float64).tiny)


def _write(ax: Axes, text: str, at: tuple[float, float], **style: Any) -> None:
    ax.annotate(text, at, path_effects=_HALO, zorder=5, **style)

"""Components in the plane: ellipses, means and their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke

from gmm_lightning.plotting._geometry import ellipse
from gmm_lightning.plotting.figures import INK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from gmm_lightning.plotting._geometry import Components

__all__ = ["HALO", "draw_ellipses", "draw_means", "draw_radius_names", "emphasis"]

_MOST_NUMBERS = 30
_MOST_BADGES = 12

# A white rim keeps small text legible on points and lines.
HALO = (withStroke(linewidth=2.0, foreground="white"),)


def emphasis(parts: Components) -> NDArray[np.float64]:
    """The weights relative to the largest one, in [0, 1]."""
    return parts.weights / max(parts.weights.max(initial=0.0), np.finfo(np.float64).tiny)


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

    Args:
        ax: Axes to draw on.
        parts: Components in two coordinates.
        radii: In standard deviations.
        colors: One for each of the K components.
        fill: Opacity at the heart of the heaviest component; 0 leaves outlines.
        linewidth: Of the outlines, in points.
    """
    strength = emphasis(parts)
    # Fills of many overlapping components add up to mud, so they share what opacity there is.
    fill = fill / max(1.0, len(strength) / 4) / max(1, len(radii))
    # Beyond a handful of components the outer outlines are what makes a picture unreadable.
    faint, inner = min(0.8, 4.0 / max(1, len(strength))), min(radii, default=0.0)
    for j, k in enumerate(map(int, parts.index)):
        for radius in sorted(radii, reverse=True):
            width, height, angle = ellipse(parts, j, radius)
            center = (float(parts.means[j, 0]), float(parts.means[j, 1]))
            patch = Ellipse(center, width, height, angle=angle, linewidth=linewidth, zorder=2)
            patch.set_facecolor((colors[k], fill * float(strength[j])))
            outline = (0.25 + 0.7 * float(strength[j])) * (1.0 if radius == inner else faint)
            patch.set_edgecolor((colors[k], outline))
            ax.add_patch(patch)
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

    Args:
        ax: Axes to draw on.
        parts: Components in two coordinates.
        colors: One for each of the K components.
        size: Area of a dot in square points.
        numbers: Whether to write them; they are those of every table.
        badge: Whether the number stands within a white dot, which shows among points of its own
            colour.
    """
    shades = [colors[int(k)] for k in parts.index]
    if not shades:
        return
    numbers = numbers and len(shades) <= _MOST_NUMBERS
    badge = badge and numbers and len(shades) <= _MOST_BADGES
    ax.scatter(
        parts.means[:, 0],
        parts.means[:, 1],
        s=130 if badge else size,
        c="white" if badge else shades,
        edgecolors=shades if badge else "white",
        linewidths=1.5 if badge else 1.2 * min(1.0, size / 40),
        zorder=4,
    )
    if not numbers:
        return
    style: dict[str, Any] = {"xytext": (5, 5)}
    if badge:
        style = {"xytext": (0, 0), "ha": "center", "va": "center_baseline"}
    for k, mean in zip(parts.index, parts.means, strict=True):
        ax.annotate(
            str(int(k)),
            (float(mean[0]), float(mean[1])),
            textcoords="offset points",
            fontsize=8,
            path_effects=HALO,
            zorder=5,
            **style,
        )


def draw_radius_names(
    ax: Axes, parts: Components, radii: Sequence[float], names: Sequence[str]
) -> None:
    """Write what each outline means once, at the foot of the lowest of the heavy components."""
    if len(parts.index) == 0:
        return
    drop = np.sqrt(np.maximum(parts.covariances[:, 1, 1], 0.0))
    feet = parts.means[:, 1] - max(radii, default=0.0) * drop
    j = int(np.where(emphasis(parts) >= 0.5, feet, np.inf).argmin())
    if not drop[j] > 0:
        return
    for radius, name in zip(radii, names, strict=True):
        # The lowest point of the ellipse: there the outline runs level, like the text.
        x = parts.means[j, 0] - radius * parts.covariances[j, 0, 1] / drop[j]
        y = parts.means[j, 1] - radius * drop[j]
        ax.annotate(
            name,
            (float(x), float(y)),
            ha="center",
            va="center",
            fontsize=7,
            color=INK,
            path_effects=HALO,
            zorder=5,
        )

"""Components in the plane: ellipses, their radii, means and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import chi_quantile
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components
from gmm_lightning.plotting._rows import Array
from gmm_lightning.plotting.palette import INK

_MAX_NUMBERS, _MAX_BADGES = 30, 12

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
    """Draw ellipses at the radii, the largest first; the heavier a component, the more opaque.

    `fill` is the opacity at the centre of the heaviest component; 0 leaves outlines.
    """
    strength = _relative_weights(parts).tolist()
    # Fills of many overlapping components add up, so they share the opacity.
    fill = fill / max(1.0, len(strength) / 4) / max(1, len(radii))
    # With more than a few components the outer outlines would make a picture unreadable.
    faint, inner = min(0.8, 4.0 / max(1, len(strength))), min(radii, default=0.0)
    for j, k in enumerate(parts.index):
        for radius in sorted(radii, reverse=True):
            outline = (0.25 + 0.7 * strength[j]) * (1.0 if radius == inner else faint)
            face, edge = (colors[k], fill * strength[j]), (colors[k], outline)
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
    """Draw a dot at each mean and, unless there are too many, the number of its component.

    With `badge` the number is in a white dot, to be visible among points of its colour.
    """
    shades = [colors[k] for k in parts.index]
    if not shades:
        return
    numbers = numbers and len(shades) <= _MAX_NUMBERS
    style: dict[str, Any] = {"c": shades, "edgecolors": "white", "s": size}
    style["linewidths"] = 1.2 * min(1.0, size / 40)
    text: dict[str, Any] = {"xytext": (5, 5)}
    if badge and numbers and len(shades) <= _MAX_BADGES:
        style = {"c": "white", "edgecolors": shades, "s": 130, "linewidths": 1.5}
        text = {"xytext": (0, 0), "ha": "center", "va": "center_baseline"}
    ax.scatter(*parts.means.T, zorder=4, **style)
    if numbers:
        for k, (x, y) in zip(parts.index, parts.means.tolist(), strict=True):
            _write(ax, str(k), (x, y), textcoords="offset points", fontsize=8, **text)


def draw_radius_names(
    ax: Axes, parts: Components, radii: Sequence[float], names: Sequence[str]
) -> None:
    """Write the name of each outline once, at the bottom of the lowest heavy component."""
    if len(parts.index) == 0:
        return
    feet = parts.means[:, 1] - max(radii, default=0.0) * parts.stds[:, 1]
    j = int(np.where(_relative_weights(parts) >= 0.5, feet, np.inf).argmin())
    drop = parts.stds[j, 1]
    if not drop > 0:
        return
    # The lowest point of an ellipse, where the outline is horizontal, like the text.
    way = np.array([parts.covariances[j, 0, 1] / drop, drop])
    for radius, name in zip(radii, names, strict=True):
        x, y = (parts.means[j] - radius * way).tolist()
        _write(ax, name, (x, y), ha="center", va="center", fontsize=7, color=INK)


def _relative_weights(parts: Components) -> Array:
    """The weights relative to the largest one, in [0, 1]."""
    return parts.weights / max(parts.weights.max(initial=0.0), np.finfo(np.float64).tiny)


def _write(ax: Axes, text: str, at: tuple[float, float], **style: Any) -> None:
    ax.annotate(text, at, path_effects=_HALO, zorder=5, **style)


def confidence_ellipse_std_devs(
    confidence_levels: float | Sequence[float], df: int = 2
) -> list[float]:
    """The Mahalanobis radii inside which a Gaussian of `df` features has the given masses.

    `r^2` is the quantile of the chi-square distribution: two standard deviations hold 95 %
    of the mass on a line, but 86 % in the plane.

    Args:
        confidence_levels: Masses in (0, 1), or one of them.
        df: Number of features, 2 for an ellipse.

    Raises:
        InvalidArgumentError: A mass outside (0, 1), or `df` below 1.

    Example:
        >>> from gmm_lightning.plotting import confidence_ellipse_std_devs
        >>> [round(radius, 4) for radius in confidence_ellipse_std_devs([0.5, 0.95])]
        [1.1774, 2.4477]
    """
    masses = _numbers("confidence levels", confidence_levels)
    if not all(0.0 < mass < 1.0 for mass in masses):
        raise InvalidArgumentError(
            f"expected masses strictly between 0 and 1, got {tuple(masses)}; write 0.9 for 90 %"
        )
    return chi_quantile(masses, require_integer("df", df, least=1)).tolist()


def radii_and_names(
    stds: float | Sequence[float], masses: float | Sequence[float] | None
) -> tuple[list[float], list[str]]:
    """Radii of ellipses in standard deviations, from `masses` if given, and their labels."""
    if masses is not None:
        radii = confidence_ellipse_std_devs(masses)
        return radii, [f"{100 * mass:.4g}%" for mass in _numbers("masses", masses)]
    radii = _numbers("stds", stds)
    if not all(np.isfinite(radius) and radius > 0 for radius in radii):
        raise InvalidArgumentError(f"expected positive numbers in stds, got {tuple(radii)}")
    return radii, [f"{radius:.3g}\N{GREEK SMALL LETTER SIGMA}" for radius in radii]


def _numbers(name: str, values: float | Sequence[float]) -> list[float]:
    try:
        return np.ravel(np.asarray(values, dtype=np.float64)).tolist()
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"expected numbers in {name}, got {describe(values)}") from None

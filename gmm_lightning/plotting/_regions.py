"""Regions that samples are given, as shapes in the plane or on the line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.patches import Circle, Polygon, Rectangle

from gmm_lightning.distributions import Ball, Box, Confidence, HalfSpace, Shell, Where
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._limits import grid_of
from gmm_lightning.plotting._shells import bands, draw_shells
from gmm_lightning.plotting.figures import INK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from gmm_lightning.plotting._geometry import Components
    from gmm_lightning.plotting._limits import Limits

__all__ = ["check_region", "draw_region", "finite_part"]

_FILL = 0.10
_RESOLUTION = 400
_RADIAL = (Shell, Confidence)


def check_region(region: Any, num_features: int, dims: tuple[int, ...]) -> None:
    """Raise unless a region has a shape that can be drawn in the given features.

    Raises:
        InvalidArgumentError: Not a region, one of another width, or one whose shape in fewer
            features than it restricts is not known.
    """
    if not isinstance(region, (*_RADIAL, Ball, Box, HalfSpace, Where)):
        raise InvalidArgumentError(
            "expected within to be Shell, Confidence, Ball, Box, HalfSpace or Where, got "
            f"{region!r}"
        )
    region.check(num_features)
    if isinstance(region, Where) and len(dims) < num_features:
        raise InvalidArgumentError(
            f"the shadow of Where in {len(dims)} of {num_features} features is not known; draw the "
            "samples without within="
        )


def finite_part(
    region: Any, dims: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends in the given features of what the window must show, infinite if none."""
    low, high = np.full(len(dims), np.inf), np.full(len(dims), -np.inf)
    if isinstance(region, Ball):
        center = np.array(region.center)[list(dims)]
        return center - region.radius, center + region.radius
    if isinstance(region, Box):
        ends = _box_ends(region, dims)
        finite = [np.where(np.isfinite(end), end, np.nan) for end in ends]
        both = np.array(finite)
        some = np.isfinite(both).any(axis=0)
        low[some], high[some] = np.nanmin(both[:, some], axis=0), np.nanmax(both[:, some], axis=0)
    return low, high


def draw_region(
    ax: Axes,
    region: Any,
    parts: Components,
    colors: Sequence[str],
    window: Limits,
    dims: tuple[int, ...],
    num_features: int,
) -> None:
    """Shade where samples may lie and outline it; in fewer features than D, the shadow of that.

    Args:
        ax: Axes to draw on.
        region: What `sample(within=...)` takes, as checked by `check_region`.
        parts: Components in the features drawn.
        colors: One for each of the K components, for the regions about each.
        window: Limits of the axes, where unbounded regions end.
        dims: Positions of the features drawn.
        num_features: D.
    """
    if isinstance(region, _RADIAL):
        draw_shells(ax, region, parts, colors, num_features)
    elif len(dims) == 1:
        _draw_on_line(ax, region, window, dims, num_features)
    elif isinstance(region, Where):
        _draw_mask(ax, region, window, dims)
    else:
        patch = _outline(region, window, dims, num_features)
        patch.set(facecolor=(INK, _FILL), edgecolor=INK, linestyle="--", linewidth=1.1, zorder=0.5)
        ax.add_patch(patch)


def _outline(region: Any, window: Limits, dims: tuple[int, ...], num_features: int) -> Any:
    if isinstance(region, Ball):
        center = (float(region.center[dims[0]]), float(region.center[dims[1]]))
        return Circle(center, float(region.radius))
    # Unbounded sides lie outside the window, where their outline cannot be taken for an end.
    spans = [high - low for low, high in window]
    far = np.array([[low - s, high + s] for (low, high), s in zip(window, spans, strict=True)])
    if isinstance(region, Box):
        low, high = _box_ends(region, dims)
        low, high = np.maximum(low, far[:, 0]), np.minimum(high, far[:, 1])
        return Rectangle((float(low[0]), float(low[1])), *(float(s) for s in high - low))
    corners = np.array([[far[0, i], far[1, j]] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))])
    normal = np.array(region.normal)
    if np.delete(normal, list(dims)).any():
        return Polygon(corners)  # the other features can make up for any value of these
    return Polygon(_clip(corners, normal[list(dims)], float(region.offset)))


def _clip(corners: NDArray[np.float64], normal: NDArray[np.float64], offset: float) -> NDArray:
    """The part of a convex polygon with `normal'x >= offset` (Sutherland and Hodgman, 1974)."""
    kept = []
    depths = corners @ normal - offset
    for i in range(len(corners)):
        here, there = depths[i], depths[(i + 1) % len(corners)]
        if here >= 0:
            kept.append(corners[i])
        if (here >= 0) != (there >= 0):
            share = here / (here - there)
            kept.append(corners[i] + share * (corners[(i + 1) % len(corners)] - corners[i]))
    return np.array(kept).reshape(-1, 2)


def _draw_on_line(
    ax: Axes, region: Any, window: Limits, dims: tuple[int, ...], num_features: int
) -> None:
    (x0, x1) = window[0]
    far = (2 * x0 - x1, 2 * x1 - x0)
    d = dims[0]
    spans: list[tuple[float, float]] = [far]
    if isinstance(region, Ball):
        center, radius = float(region.center[d]), float(region.radius)
        spans = [(center - radius, center + radius)]
    elif isinstance(region, Box):
        low, high = _box_ends(region, dims)
        spans = [(max(float(low[0]), far[0]), min(float(high[0]), far[1]))]
    elif isinstance(region, HalfSpace):
        slope = float(region.normal[d])
        if slope != 0 and not any(v for i, v in enumerate(region.normal) if i != d):
            edge = float(region.offset) / slope
            spans = [(edge, far[1])] if slope > 0 else [(far[0], edge)]
    else:
        (along,), points = grid_of(window, _RESOLUTION)
        spans = _runs(along, _mask(region, points), far)
    patch = bands(ax, spans)
    patch.set(facecolor=(INK, _FILL), edgecolor=INK, linestyle="--", linewidth=1.1, zorder=0.5)


def _runs(
    along: NDArray[np.float64], mask: NDArray[np.bool_], far: tuple[float, float]
) -> list[tuple[float, float]]:
    """Where a mask on even points is True, as intervals; those at an end go on to `far`."""
    half = 0.5 * (along[1] - along[0])
    starts, stops = along - half, np.append(far[0], along + half)
    starts[0], stops[-1] = far
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [
        (float(starts[a]), float(stops[b])) for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def _draw_mask(ax: Axes, region: Where, window: Limits, dims: tuple[int, ...]) -> None:
    along, points = grid_of(window, _RESOLUTION)
    # The function was written for features in their own order.
    mask = _mask(region, points[:, np.argsort(dims)]).reshape(_RESOLUTION, _RESOLUTION)
    image = np.zeros((_RESOLUTION, _RESOLUTION, 4))
    image[mask] = (*_rgb(INK), _FILL)
    extent = (*window[0], *window[1])
    ax.imshow(image, extent=extent, origin="lower", aspect="auto", zorder=0.4)
    if mask.any() and not mask.all():
        ax.contour(
            *along,
            mask.astype(float),
            levels=[0.5],
            colors=INK,
            linestyles="--",
            linewidths=1.1,
            zorder=0.5,
        )


def _mask(region: Where, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    return region.contains(torch.from_numpy(points)).numpy()


def _box_ends(region: Box, dims: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    ends = []
    for end in (region.lower, region.upper):
        row = np.asarray(end, dtype=np.float64).reshape(-1)
        ends.append(np.full(len(dims), row[0]) if len(row) == 1 else row[list(dims)])
    return ends[0], ends[1]


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))

"""Regions of samples, as shapes in the plane or on the line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import PathPatch, Polygon
from matplotlib.path import Path

from gmm_lightning._messages import describe
from gmm_lightning.distributions import EuclideanRegion, MahalanobisRegion, Region
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._components import Components
from gmm_lightning.plotting._rows import Array
from gmm_lightning.plotting._view import grid_of
from gmm_lightning.plotting.palette import INK

_RESOLUTION = 400
_FILL, _SHELL_FILL = 0.10, 0.12
_DASHED: dict[str, Any] = {"edgecolor": INK, "linestyle": "--", "linewidth": 1.1, "zorder": 0.5}


def project_region(region: Region, num_features: int, dims: tuple[int, ...]) -> Region:
    """The projection of a region onto some features; one about each component is unchanged."""
    if not isinstance(region, Region):
        raise InvalidArgumentError(
            "expected within to be Shell, Confidence, Ball, Box, HalfSpace or Where, got "
            f"{describe(region)}"
        )
    region.check(num_features)
    return region.project(dims, num_features) if isinstance(region, EuclideanRegion) else region


def finite_ends(region: Region, inside: Array) -> Array:
    """Two rows that a window must hold: the ends of a region, or `inside` where it has none."""
    if not isinstance(region, EuclideanRegion):
        return np.empty((0, len(inside)))
    ends = torch.stack(region.bounds(len(inside))).numpy()
    return np.where(np.isfinite(ends), ends, inside)


def draw_region(
    ax: Axes, region: Region, parts: Components, colors: Sequence[str], window: Array
) -> None:
    """Shade and outline the region in which samples may lie."""
    if isinstance(region, MahalanobisRegion):
        _draw_shells(ax, region, parts, colors)
        return
    # Unbounded sides are cut outside the window, so that no false edge is visible.
    wide = np.array([(2 * low - high, 2 * high - low) for low, high in window])
    outline = region.outline(torch.from_numpy(wide))
    if outline is None and len(window) == 2:
        _draw_mask(ax, region, window)
        return
    if outline is None:
        patch = _bands(ax, _runs(region, window, wide[0]))
    elif len(window) == 1:
        patch = _bands(ax, [(float(outline.min()), float(outline.max()))] if len(outline) else [])
    else:
        patch = ax.add_patch(Polygon(outline.numpy()))
    patch.set(facecolor=(INK, _FILL), **_DASHED)


def _runs(region: EuclideanRegion, window: Array, wide: Array) -> list[tuple[float, float]]:
    """Intervals of the line in a region; those at an end of the window extend beyond it."""
    (along,), points = grid_of(window, _RESOLUTION)
    half = 0.5 * (along[1] - along[0])
    starts, stops = along - half, np.append(0.0, along + half)
    starts[0], stops[-1] = wide
    inside = np.pad(region.contains(torch.from_numpy(points)).numpy(), 1)
    edges = np.flatnonzero(np.diff(inside.astype(int)))
    return list(zip(starts[edges[::2]].tolist(), stops[edges[1::2]].tolist(), strict=True))


def _draw_mask(ax: Axes, region: EuclideanRegion, window: Array) -> None:
    along, points = grid_of(window, _RESOLUTION)
    mask = region.contains(torch.from_numpy(points)).numpy().reshape(_RESOLUTION, _RESOLUTION)
    image = np.zeros((_RESOLUTION, _RESOLUTION, 4))
    image[mask] = to_rgba(INK, _FILL)
    extent = (*window[0], *window[1])
    ax.imshow(image, extent=extent, origin="lower", aspect="auto", zorder=0.4)
    if mask.any() and not mask.all():
        style: dict[str, Any] = {"colors": INK, "linestyles": "--", "linewidths": 1.1}
        ax.contour(*along, mask.astype(float), levels=[0.5], zorder=0.5, **style)


def _draw_shells(
    ax: Axes, region: MahalanobisRegion, parts: Components, colors: Sequence[str]
) -> None:
    """Shade the shell of each component in its colour and outline its ends.

    A shell without an outer end is shaded as far as 99 % of its rows lie, without an outline there.
    """
    num_features = parts.factors.shape[-1]
    low, high = region.radii(num_features)
    reach = region.reach(num_features)
    # The projection of a shell is that of a ball.
    low = low if parts.num_features == num_features else 0.0
    ends = [radius for radius in (low, high) if 0 < radius < math.inf]
    for j in np.flatnonzero(parts.weights > 0):
        mean, color = parts.means[j], colors[parts.index[j]]
        if len(mean) == 1:
            at, std = float(mean[0]), float(parts.stds[j, 0])
            spans = [(at - reach * std, at - low * std), (at + low * std, at + reach * std)]
            filled = _bands(ax, spans if low > 0 else [(spans[0][0], spans[1][1])])
            for end in (at + sign * radius * std for radius in ends for sign in (-1, 1)):
                ax.axvline(end, color=color, alpha=0.8, linewidth=1.2, zorder=0.5)
        else:
            root = _symmetric_root(parts.covariances[j])
            rims = [_rim(mean, root, reach)]
            if low > 0:
                # Backwards: matplotlib leaves a hole between paths of opposite orientation.
                rims.append(_rim(mean, root, low, step=-1))
            filled = ax.add_patch(PathPatch(Path.make_compound_path(*rims)))
            for radius in ends:
                rim = ax.add_patch(PathPatch(_rim(mean, root, radius), fill=False, zorder=0.5))
                rim.set(edgecolor=(color, 0.8), linewidth=1.2)
        filled.set(facecolor=(color, _SHELL_FILL), linewidth=0, zorder=0.5)


def _bands(ax: Axes, spans: Iterable[tuple[float, float]]) -> PathPatch:
    """Intervals as one patch over the whole height; its ends above and below are not visible."""
    boxes = [
        Path([(a, -0.1), (b, -0.1), (b, 1.1), (a, 1.1), (a, -0.1)], closed=True) for a, b in spans
    ]
    path = Path.make_compound_path(*boxes) if boxes else Path(np.empty((0, 2)))
    # The patch has the transform of the axes' height, so it must not be added as data.
    patch = PathPatch(path, transform=ax.get_xaxis_transform())
    ax.add_artist(patch)
    patch.set_clip_path(ax.patch)
    return patch


def _rim(mean: Array, root: Array, radius: float, step: int = 1) -> Path:
    circle = Path.unit_circle()
    vertices, codes = np.asarray(circle.vertices)[:-1], np.asarray(circle.codes)[:-1]
    return Path((mean + radius * vertices @ root)[::step], codes)


def _symmetric_root(covariance: Array) -> Array:
    """The symmetric square root, which does not mirror, so that rims keep their orientation."""
    variances, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(variances, 0.0)) @ vectors.T

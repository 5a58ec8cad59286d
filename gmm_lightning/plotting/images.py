"""Grids of small images, for rows of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from reprlib import repr as short
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.plotting._rows import Array, Values, to_array
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import INK

_MAX_IMAGES = 1024


def plot_images(
    images: Values,
    *,
    ax: Axes | None = None,
    shape: tuple[int, int] | None = None,
    num_cols: int | None = None,
    names: Sequence[object] | NDArray[Any] | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "gray_r",
    title: str | None = None,
) -> Axes:
    """Draw images side by side, row by row, on one scale of grey.

    Args:
        images: Rows of pixels `(N, H * W)`, or `(N, H, W)`, such as digits, samples, or the means
            of a mixture. Entries that are not finite stay white.
        ax: Axes to draw on, and to return without ticks; None makes a new figure.
        shape: `(H, W)` for rows of pixels; None for a square.
        num_cols: Images side by side; None makes the whole about square.
        names: Text above each of the N images, such as a label or a weight.
        limits: Values drawn in the first and the last colour; None for the least and greatest.
        cmap: A colour map of matplotlib.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Rows that are not `shape`, or another argument that does not fit.
        InvalidDataError: No images, more than 1024, or not numbers.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_images
        >>> ax = plot_images(torch.rand(10, 64), num_cols=5, names=range(10))
        >>> [text.get_text() for text in ax.texts][:3]
        ['0', '1', '2']
    """
    tiles = _tiles(to_array(images), shape)
    count, height, width = tiles.shape
    if num_cols is not None:
        require_integer("num_cols", num_cols, least=1)
    if names is not None and not (isinstance(names, Sized) and len(names) == count):
        got = len(names) if isinstance(names, Sized) else short(names)
        raise InvalidArgumentError(f"expected one name for each of {count} images, got {got}")
    if cmap not in colormaps:
        raise InvalidArgumentError(
            f"unknown cmap {describe(cmap)}; matplotlib.colormaps lists all names"
        )
    cols = min(count, num_cols or math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / cols)
    # A gap in pixels, with a line of text in it where there are names.
    gap = max(1, round(0.08 * max(height, width)))
    head = 0 if names is None else max(2, round(0.3 * height))
    step_y, step_x = height + gap + head, width + gap
    sheet = np.full((rows * step_y - gap, cols * step_x - gap), np.nan)
    corners = [(head + step_y * (i // cols), step_x * (i % cols)) for i in range(count)]
    for (top, left), tile in zip(corners, tiles, strict=True):
        sheet[top : top + height, left : left + width] = tile

    inch = min(0.75, 10.0 / cols) / step_x
    size = (inch * sheet.shape[1], inch * sheet.shape[0])
    figsize = (max(1.5, size[0]), max(1.0, size[1]) + (0.0 if title is None else 0.4))
    ax = axes_or_new(ax, title, figsize)
    low, high = _limits(limits, sheet)
    masked = np.ma.masked_invalid(sheet)
    ax.imshow(masked, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "color": INK}
    for (top, left), name in zip(corners, () if names is None else names, strict=False):
        ax.text(left + 0.5 * width - 0.5, top - 0.5 - 0.08 * head, str(name), **style)
    ax.set_axis_off()
    return ax


def _tiles(images: Array, shape: tuple[int, int] | None) -> Array:
    """Images `(N, H, W)`, from that or from rows of pixels."""
    if images.ndim not in (2, 3):
        raise InvalidArgumentError(
            f"expected images of shape (N, pixels) or (N, height, width), got {images.shape}"
        )
    if shape is None:
        side = math.isqrt(images.shape[1])
        shape = (images.shape[1], images.shape[2]) if images.ndim == 3 else (side, side)
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise InvalidArgumentError(f"expected shape=(height, width), got {short(shape)}")
    for name, size in zip(("height", "width"), shape, strict=True):
        require_integer(name, size, least=1)
    given = images[0].size if len(images) else shape[0] * shape[1]
    if shape[0] * shape[1] != given:
        raise InvalidArgumentError(
            f"expected {shape[0]} x {shape[1]} pixels for each image, got {given}; pass "
            "shape=(height, width)"
        )
    if not 0 < len(images) <= _MAX_IMAGES:
        raise InvalidDataError(
            f"expected 1 to {_MAX_IMAGES} images, got {len(images)}; pass some of them"
        )
    return images.reshape(len(images), *shape)


def _limits(limits: tuple[float, float] | None, sheet: Array) -> tuple[float, float]:
    if limits is not None:
        ends = to_array(limits)
        if ends.shape != (2,) or not (np.isfinite(ends).all() and ends[0] < ends[1]):
            raise InvalidArgumentError(f"expected limits low < high, got {limits}")
        return float(ends[0]), float(ends[1])
    finite = sheet[np.isfinite(sheet)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)

"""Making and saving figures outside of pyplot."""

from __future__ import annotations

import os
from pathlib import Path
from reprlib import repr as short
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gmm_lightning._files import atomic_write
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError


def axes_or_new(
    ax: Axes | None, title: str | None = None, figsize: tuple[float, float] = (6.4, 4.8)
) -> Axes:
    """The given axes, or those of a new figure on the Agg canvas, under a title if there is one.

    Raises:
        InvalidArgumentError: `ax` is not matplotlib's `Axes`.
    """
    if ax is not None and not isinstance(ax, Axes):
        raise InvalidArgumentError(f"expected matplotlib axes as ax, got {short(ax)}")
    axes = new_grid(1, 1, figsize)[0, 0] if ax is None else ax
    if title is not None:
        axes.set_title(title)
    return axes


def new_grid(rows: int, cols: int, figsize: tuple[float, float]) -> NDArray[Any]:
    """Axes (rows, cols) of a new figure on the Agg canvas, without top and right spines."""
    # Constrained layout leaves room for a legend beside the axes.
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, cols, squeeze=False)
    for ax in grid.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return grid


def root_figure(artist: Any) -> Figure | None:
    """The figure that holds axes or a subfigure, or None outside of any figure."""
    while artist is not None and not isinstance(artist, Figure):
        artist = getattr(artist, "figure", None)
    return artist


def add_colorbar(ax: Axes, drawn: Any, label: str, **options: Any) -> None:
    """Add a colour bar beside the axes, without a frame."""
    figure: Any = ax.figure
    if figure is not None:
        bar = figure.colorbar(drawn, ax=ax, label=label, **options)
        bar.minorticks_off()
        bar.outline.set_visible(False)


def dynamic_figsize(
    rows: int, cols: int, base_width: float = 7.0, base_height: float = 4.5
) -> tuple[float, float]:
    """Width and height in inches of a figure with a grid of panels.

    Args:
        rows: Number of panels below each other.
        cols: Number of panels side by side.
        base_width: Width of one panel.
        base_height: Height of one panel.

    Raises:
        InvalidArgumentError: A number of panels below 1, or a size that is not positive.

    Example:
        >>> from gmm_lightning.plotting import dynamic_figsize
        >>> dynamic_figsize(2, 3)
        (21.0, 9.0)
    """
    require_integer("rows", rows, least=1)
    require_integer("cols", cols, least=1)
    width = require_number("base_width", base_width, above=0)
    return cols * width, rows * require_number("base_height", base_height, above=0)


def save_figure(ax_or_fig: Axes | Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a figure to a file, in the format that the suffix names, and return the path.

    Args:
        ax_or_fig: A figure, or axes in it.
        path: Where to write (`.png`, `.pdf`, `.svg`); missing folders are made.
        dpi: Dots per inch of a raster format.

    Raises:
        InvalidArgumentError: The axes no longer belong to a figure, a suffix that is no format, or
            a resolution that is not positive.

    Example:
        >>> import pathlib, tempfile
        >>> from gmm_lightning.plotting import plot_convergence, save_figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_figure(plot_convergence([-3.0, -2.0]), pathlib.Path(folder, "fit.png"))
        ...     path.stat().st_size > 0
        True
    """
    figure = root_figure(ax_or_fig)
    if figure is None:
        raise InvalidArgumentError(
            "expected axes that belong to a figure, got axes removed from theirs; plot again"
        )
    path, formats = Path(path), sorted(figure.canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".") not in formats:
        raise InvalidArgumentError(
            f"{path}: expected a name that ends in one of .{', .'.join(formats)}"
        )
    require_number("dpi", dpi, above=0)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=dpi, format=path.suffix.removeprefix("."))
    return path

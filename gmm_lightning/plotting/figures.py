"""Figures that pyplot does not know of: make and save them."""

from __future__ import annotations

import os
from pathlib import Path
from reprlib import repr as short
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError

INK = "#333333"
PAPER_GREY = "#8C8C8C"


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] = (6.4, 4.8)) -> Axes:
    """The axes of the user, or those of a new figure on the Agg canvas.

    Raises:
        InvalidArgumentError: `ax` is not matplotlib's `Axes`.
    """
    if ax is not None and not isinstance(ax, Axes):
        raise InvalidArgumentError(f"expected matplotlib axes as ax, got {short(ax)}")
    return new_grid(1, 1, figsize)[0, 0] if ax is None else ax


def new_grid(rows: int, cols: int, figsize: tuple[float, float]) -> NDArray[Any]:
    """Axes (rows, cols) of a new figure on the Agg canvas, without the two spines at no ticks."""
    # Constrained layout leaves room for a legend beside the axes.
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, cols, squeeze=False)
    for ax in grid.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return grid


def dynamic_figsize(
    rows: int, cols: int, base_width: float = 7.0, base_height: float = 4.5
) -> tuple[float, float]:
    """Width and height in inches of a figure of panels of a given size.

    Args:
        rows: Rows of panels.
        cols: Columns of panels.
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
    """Write a figure, or the figure that holds the given axes, to a file.

    The suffix of the path chooses the format (`.png`, `.pdf`, `.svg`); missing folders are made.

    Args:
        ax_or_fig: Axes, as the plotting functions return them, or a figure.
        path: Where to write.
        dpi: Dots per inch of a raster format.

    Returns:
        The path written to.

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
    figure = ax_or_fig
    if not isinstance(figure, Figure):
        figure = _root_figure(getattr(ax_or_fig, "figure", None))
    path, formats = Path(path), sorted(figure.canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".") not in formats:
        raise InvalidArgumentError(
            f"{path}: expected a name that ends in one of .{', .'.join(formats)}"
        )
    require_number("dpi", dpi, above=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path


def _root_figure(figure: Figure | SubFigure | None) -> Figure:
    while figure is not None and not isinstance(figure, Figure):
        figure = figure.figure
    if figure is None:
        raise InvalidArgumentError(
            "expected axes that belong to a figure, got axes removed from theirs; plot again"
        )
    return figure

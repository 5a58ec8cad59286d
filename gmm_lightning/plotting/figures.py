"""Make and save figures that pyplot never hears of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gmm_lightning.errors import InvalidArgumentError

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["new_axes", "save_figure"]

INK = "#333333"
PAPER_GREY = "#8C8C8C"


def new_axes() -> Axes:
    """Axes in a figure of their own, on the Agg canvas, free of the two spines that frame nothing.

    Example:
        >>> from gmm_lightning.plotting.figures import new_axes
        >>> type(new_axes().figure.canvas).__name__
        'FigureCanvasAgg'
    """
    # Constrained layout leaves room for a legend beside the axes.
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


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
        InvalidArgumentError: The axes no longer belong to a figure.

    Example:
        >>> import pathlib, tempfile
        >>> from gmm_lightning.plotting import plot_convergence, save_figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_figure(plot_convergence([-3.0, -2.0]), pathlib.Path(folder, "fit.png"))
        ...     path.stat().st_size > 0
        True
    """
    figure = ax_or_fig if isinstance(ax_or_fig, Figure) else _root_figure(ax_or_fig.figure)
    path = Path(path)
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

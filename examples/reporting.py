"""Reports of the examples: lines and tables in the terminal, figures in a folder."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gmm_lightning.plotting import save_figure

Cell = str | float | int


class Reporter:
    """Prints lines and tables, and saves figures in one folder.

    Args:
        folder: folder of the figures; made when the first figure is saved.

    Attributes:
        tables: rows of every table, header first.
        figures: files that were written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.tables: list[list[Sequence[Cell]]] = []
        self.figures: list[Path] = []

    def print(self, line: str) -> None:
        """Print a line at once, so that long examples show how far they are."""
        print(line, flush=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Print a table: first column aligned left, the others right, floats with four digits."""
        lines = [header, *rows]
        self.tables.append(lines)
        cells = [[format_cell(cell) for cell in line] for line in lines]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for first, *others in cells:
            aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            self.print("  ".join([first.ljust(widths[0]), *aligned]).rstrip())

    def figure(self, name: str, axes: Axes | NDArray[Any]) -> None:
        """Save the figure of some axes, or of an array of axes, as `NAME.png`."""
        ax = axes.flat[0] if isinstance(axes, np.ndarray) else axes
        path = save_figure(ax, self.folder / f"{name}.png")
        self.figures.append(path)
        self.print(f"figure: {path}")


def format_cell(cell: Cell) -> str:
    """A float with four significant digits, anything else as it is."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def mean_and_std(values: Iterable[float]) -> str:
    """Mean and sample standard deviation over several runs, as `0.123 ± 0.004`."""
    values = [float(value) for value in values]
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {std:.3f}"


def new_axes(rows: int, cols: int, figsize: tuple[float, float]) -> NDArray[Any]:
    """Axes `(rows, cols)` of a new figure, without the top and right spines.

    `Figure` rather than `pyplot.figure`: no window opens and no global state changes.
    """
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(rows, cols, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return axes

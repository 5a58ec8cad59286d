"""What an example tells: sentences, tables and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gmm_lightning.plotting import save_figure

Cell = str | float | int


class Account:
    """Prints as it goes and saves pictures into one folder.

    Args:
        folder: of the pictures; made when the first is saved.

    Attributes:
        pictures: the files that were written.
        tables: the rows of each table, header first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: list[Path] = []
        self.tables: list[list[Sequence[Cell]]] = []

    def say(self, sentence: str) -> None:
        """Print a line."""
        print(sentence, flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Print rows in columns: names to the left, numbers to the right, four digits."""
        self.tables.append([header, *rows])
        cells = [list(header), *([shown(cell) for cell in row] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
        for line in cells:
            first, rest = line[0].ljust(widths[0]), zip(line[1:], widths[1:], strict=True)
            self.say("  ".join([first, *(cell.rjust(width) for cell, width in rest)]).rstrip())

    def picture(self, name: str, axes: Any) -> None:
        """Save the figure that axes, or an array of them, belong to as `name.png`."""
        one = axes.flat[0] if hasattr(axes, "flat") else axes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pictures.append(Path(save_figure(one, self.folder / f"{name}.png")))

    def close(self) -> None:
        """Say where the pictures are."""
        for path in self.pictures:
            self.say(f"picture: {path}")


def spread(values: Iterable[float], form: str = ".3f") -> str:
    """Mean and standard deviation over several runs."""
    runs = [float(value) for value in values]
    deviation = statistics.stdev(runs) if len(runs) > 1 else 0.0
    return f"{statistics.fmean(runs):{form}} ± {deviation:{form}}"


def shown(cell: Cell) -> str:
    """A number with four digits, a count or a name as it is."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)

"""After a sweep: one table of all its runs."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from gmm_lightning._files import atomic_write
from gmm_lightning.app.stored import read_record, read_yaml
from gmm_lightning.criteria import rank_fits

_DEGENERATE = "degenerate_components"
_SHOWN = (
    "log_likelihood",
    "val_log_likelihood",
    "objective",
    "bic",
    "aic",
    "icl",
    "adjusted_rand_score",
    "iterations",
    "converged",
    "seconds",
)


class SweepSummary(Callback):
    """Writes `sweep.csv` into the folder of a sweep, and prints it, best BIC first.

    Runs with degenerate components come after the others.

    Args:
        include_degenerate: rank them by BIC like the others.
    """

    def __init__(self, *, include_degenerate: bool = False) -> None:
        self.include_degenerate = include_degenerate

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect `metrics.json` and the overrides of every job."""
        folder = Path(config.hydra.sweep.dir)
        runs = [_read_run(path.parent) for path in sorted(folder.glob("*/metrics.json"))]
        if not runs:
            return
        names = list(dict.fromkeys(name for run in runs for name in run))
        scores = [float(run.get("bic", math.inf)) for run in runs]
        degenerate = [run[_DEGENERATE] for run in runs]
        order = rank_fits(scores, degenerate, include_degenerate=self.include_degenerate)
        runs = [runs[i] for i in order]
        path = folder / "sweep.csv"
        with atomic_write(path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(runs)
        cells = [names, *([_short(run.get(name, "")) for name in names] for run in runs)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
        for row in cells:
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        number = sum(map(bool, degenerate))
        if number and not self.include_degenerate:
            print(
                f"{number} of {len(runs)} runs have degenerate components and come last: their "
                "criteria do not compare; hydra.callbacks.summary.include_degenerate=true ranks "
                "them too"
            )
        print(f"table: {path}")


def _read_run(folder: Path) -> dict[str, Any]:
    """One row: the job's number, its overrides, its main numbers."""
    metrics = read_record(folder / "metrics.json")
    overrides = read_yaml(folder / ".hydra" / "overrides.yaml")
    pairs = (str(override).split("=", 1) for override in overrides)
    settings = {pair[0].rsplit(".", 1)[-1]: pair[-1] for pair in pairs}
    numbers = {name: metrics[name] for name in _SHOWN if name in metrics}
    degenerate = " ".join(map(str, metrics.get(_DEGENERATE, ())))
    return {"run": folder.name, **settings, **numbers, _DEGENERATE: degenerate}


def _short(value: object) -> str:
    """A value as text, floats with 6 digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""Every example at sizes that take a second or two, and cells of the tables that it prints."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import background_subtraction
import class_mixtures
import digits
import imputation
import labelled
import latent_anomaly
import mdn_inverse
import moons
import one_gaussian
import regression
import sampling_tour
import segment_image
import uncertainty
import vade_digits
from reporting import Reporter
from support.lightning_runs import ROOT

FOLDER = ROOT / "examples"
# Some are helpers of the others.
SCRIPTS = [
    path.stem for path in sorted(FOLDER.glob("*.py")) if '"__main__"' in path.read_text("utf-8")
]


class Finished(NamedTuple):
    """What an example printed, and its report."""

    printed: str
    report: Reporter


def with_options(module: ModuleType, options: str = "", **sizes: int) -> Callable[[Path], Reporter]:
    return lambda folder: module.main([*options.split(), "--output", str(folder)], **sizes)


def small_scenes(folder: Path) -> Reporter:
    report = Reporter(folder)
    background_subtraction.compare_on_scenes(
        report,
        background_subtraction.Settings(),
        num_seeds=2,
        seed=0,
        num_frames=40,
        height=24,
        width=32,
    )
    return report


def small_choice(folder: Path) -> Reporter:
    report = Reporter(folder)
    class_mixtures.compare(report, class_mixtures.read("satellite"), 1, 0, {"diag": (16,)})
    return report


SMALL_RUNS: dict[str, Callable[[Path], Reporter]] = {
    "background_subtraction": small_scenes,
    "class_mixtures": small_choice,
    "digits": with_options(digits),
    "imputation": with_options(imputation),
    "labelled": with_options(labelled),
    "latent_anomaly": with_options(latent_anomaly, "--epochs 3 --num-digits 2 --num-seeds 1"),
    "mdn_inverse": with_options(
        mdn_inverse, "--num-rows 200 --max-epochs 20 --num-folds 2 --num-seeds 1"
    ),
    "moons": with_options(moons),
    "one_gaussian": with_options(one_gaussian),
    "regression": with_options(regression),
    "sampling_tour": with_options(sampling_tour),
    "segment_image": with_options(segment_image, "--step 6 --num-components 6 --num-seeds 2"),
    "uncertainty": with_options(uncertainty, "--num-draws 400"),
    "vade_digits": with_options(
        vade_digits, "--epochs 2 --num-restarts 2 --num-seeds 1", figure_epochs=1
    ),
}


def run_small(name: str, folder: Path) -> Finished:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        report = SMALL_RUNS[name](folder)
    return Finished(printed.getvalue(), report)


def column(report: Reporter, name: str | int, table: int = 0) -> dict[str, Any]:
    """A column of a table, by its name or number, with the first column as keys."""
    header, *rows = report.tables[table]
    index = name if isinstance(name, int) else list(header).index(name)
    return {str(row[0]): row[index] for row in rows}


def means(report: Reporter, name: str | int, table: int = 0) -> dict[str, float]:
    """The means of a column whose cells are means and standard deviations."""
    cells = column(report, name, table)
    return {key: float(cell.split(" ± ")[0]) for key, cell in cells.items()}

"""Rows from files, a block at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved, wall_seconds
from benchmarks.report import Report, times
from benchmarks.settings import Settings, Skipped
from gmm_lightning import fit_em

MEMORY = "in memory"
PASSES = 5
# One to check the rows, one per iteration, and one for the final objective.
READINGS = PASSES + 2


def run(settings: Settings, report: Report) -> None:
    """Reading alone, and EM over what is read."""
    try:
        from gmm_lightning.datasets import open_rows
        from gmm_lightning.training import StreamDataModule
    except ImportError as error:
        raise Skipped(f"this version reads no streams: {error}") from error
    n, text = settings.pick((1_000_000, 200_000), (200_000, 20_000), (2_000, 500))
    d, k = settings.pick((16, 16), (16, 16), (4, 3))
    data = rows.clusters(n, d, k)
    x = data.rows("float32")
    start = rows.start("full", data)
    table = report.table(
        f"Streaming, D = {d}, K = {k}, float32, full (million rows per second on the clock, warm "
        "cache)",
        *("rows from", "rows", "threads", "reading alone", "EM", "EM from memory"),
        "time against memory",
        "largest difference",
    )
    with tempfile.TemporaryDirectory() as folder:
        files, absent = written(Path(folder), x.numpy(), text)
        for name, path in files.items():
            stream = open_rows(path)
            module = StreamDataModule(path)
            part = x[: stream.num_rows]

            def reading(stream: Any = stream) -> float:
                return sum(float(block.x[0, 0]) for block in stream.read())

            made = [
                Contender("reading", reading),
                Contender("streamed", em(start, module.train_source())),
                Contender(MEMORY, em(start, part)),
            ]
            for number in dict.fromkeys((1, settings.threads)):
                with threads(number):
                    timings = interleaved(made, settings.times(3, 2), wall_seconds)
                count = len(part) / 1e6
                streamed, memory = timings["streamed"], timings[MEMORY]
                apart = rows.largest_difference(memory.value, rows.parameters(streamed.value))
                table.row(
                    *(name, len(part), number, count / timings["reading"].median),
                    *(count * READINGS / t.median for t in (streamed, memory)),
                    times(streamed.median / memory.median),
                    apart,
                    seconds={key: timing.seconds for key, timing in timings.items()},
                    difference=apart,
                )
                label = f"{name}, {number} thread(s)"
                report.bar("EM from a file against memory", label, memory.median / streamed.median)
    for name, why in absent.items():
        table.note(f"{name}: {why}.")
    table.note(
        f"A fit of {PASSES} iterations from given parameters reads the rows {READINGS} times, once "
        "of them to check them. The file is read by a thread beside those that compute."
    )


def em(start: Any, x: Any) -> Callable[[], Any]:
    """Some iterations from the same parameters."""

    def act() -> Any:
        layer = rows.in_dtype(start, "float32")
        fit_em(layer, x, initializer=None, tol=0.0, max_iter=PASSES)
        return layer

    return act


def written(folder: Path, x: np.ndarray, text: int) -> tuple[dict[str, Path], dict[str, str]]:
    """The rows as files, and which kinds could not be written."""
    files = {".npy": folder / "rows.npy", "Parquet": folder / "rows.parquet"}
    absent: dict[str, str] = {}
    np.save(files[".npy"], x)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        absent["Parquet"] = str(error)
        del files["Parquet"]
    else:
        table: Any = pyarrow.table({f"x{i}": x[:, i] for i in range(x.shape[1])})
        parquet.write_table(table, files["Parquet"], row_group_size=1 << 16)
    files["CSV"] = folder / "rows.csv"
    names = ",".join(f"x{i}" for i in range(x.shape[1]))
    np.savetxt(files["CSV"], x[:text], fmt="%.9g", delimiter=",", header=names, comments="")
    return files, absent

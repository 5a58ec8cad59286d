"""The peak of the memory that a fit takes beside the rows, each contender in its own process."""

from __future__ import annotations

import json
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.report import Report
from benchmarks.settings import Settings

MIB = 1 << 20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OURS = ("gmm_lightning, kmeans start", "gmm_lightning, given start")


def run(settings: Settings, report: Report) -> None:
    """A child process per contender."""
    from benchmarks import peers

    d, k = settings.pick((16, 64), (16, 64), (4, 3))
    many = settings.pick(2_000_000, 200_000, 2_000)
    some = settings.pick(100_000, 20_000, 2_000)
    table = report.table(
        f"Peak memory beside the rows, D = {d}, K = {k}, float32, full covariances",
        *("contender", "rows", "MiB of rows", "peak MiB beside them", "bytes per row", "measured"),
    )
    sizes = dict.fromkeys(OURS, many) | {
        # Arrays of N x K, several at a time.
        "scikit-learn": many if available() > 40 * many * k else many // 10,
        # Arrays of N x K x D.
        **dict.fromkeys(("torchgmm", "tgmm", "pomegranate"), some),
    }
    for name, n in sizes.items():
        why = None if name in OURS else peers.missing(name)
        if why is not None:
            table.row(name, None, None, None, None, f"not there: {why}")
            continue
        said = machine.child("memory", name, n, d, k, threads=1)
        found = json.loads(said.splitlines()[-1])
        peak = found["peak"]
        table.row(
            *(name, n, n * d * 4 / MIB, peak / MIB, peak / n, found["how"]), contender=name, **found
        )
    table.note(
        "Two iterations of ours and one of the others, in one thread, after a small fit that loads "
        "what is loaded once. Ours does not grow with the rows; what the others take does, so that "
        "fewer rows serve."
    )


def available() -> int:
    """Bytes of memory that are free, or a guess."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return 8 << 30
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


# -- in the child ---------------------------------------------------------------------------


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = STATUS.read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024


class Watch:
    """The peak of the resident memory while something runs, above what was there before.

    By the kernel's own mark where it can be set back; by looking every 2 ms at the anonymous
    memory where it cannot; by the process's all-time peak where there is no /proc.
    """

    def __enter__(self) -> Watch:
        self.how, self.peak = "getrusage", 0
        self.before = self.rusage()
        if STATUS.exists():
            try:
                CLEAR.write_text("5")
                self.how, self.before = "VmHWM", status("VmRSS")
            except OSError:
                self.how, self.before = "RssAnon", status("RssAnon")
        self.highest, self.stop = 0, threading.Event()
        self.sampler = threading.Thread(target=self.sample, daemon=True)
        if self.how == "RssAnon":
            self.sampler.start()
        return self

    def rusage(self) -> int:
        """The all-time peak, in bytes."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def sample(self) -> None:
        """Look again and again."""
        while not self.stop.wait(0.002):
            self.highest = max(self.highest, status("RssAnon"))

    def __exit__(self, *reason: object) -> None:
        self.stop.set()
        if self.how == "RssAnon":
            self.sampler.join()
            after = self.highest
        else:
            after = status("VmHWM") if self.how == "VmHWM" else self.rusage()
        self.peak = max(0, after - self.before)


def problem(n: int, d: int, k: int) -> Any:
    """Rows made in place, with a start from unit covariances about the true centres."""
    import torch

    from benchmarks.peers import Problem
    from gmm_lightning import GMMLayer

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((k, d)) * (4.0 / np.sqrt(2 * d))
    x = rng.standard_normal((n, d), dtype=np.float32)
    for low in range(0, n, 10_000):
        part = x[low : low + 10_000]
        part += centres[rng.integers(k, size=len(part))]
    layer = GMMLayer(d, k, dtype=torch.float64)
    layer.set_parameters(means=torch.from_numpy(centres))
    return Problem("full", layer, centres, x)


def fit(name: str, given: Any) -> None:
    """Two iterations of ours, or one of another library."""
    from benchmarks import peers, rows
    from gmm_lightning import fit_em

    if name not in OURS:
        with np.errstate(all="ignore"):
            peers.FITS[name][0](given, 1e-30, 1)
        return
    layer = rows.in_dtype(given.start, "float32")
    initializer = "kmeans" if name == OURS[0] else None
    fit_em(layer, given.x, initializer=initializer, tol=0.0, max_iter=2)


def main(name: str, n: int, d: int, k: int) -> None:
    """Print what was found as JSON."""
    from benchmarks import peers

    peers.quiet()
    fit(name, problem(min(n, 2_000), d, k))
    given = problem(n, d, k)
    with Watch() as watch:
        fit(name, given)
    print(json.dumps({"rows": n, "peak": watch.peak, "how": watch.how}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

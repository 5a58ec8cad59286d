"""The speed, memory and exactness of this package, beside those of other libraries, here.

    python scripts/benchmark.py                     every subject
    python scripts/benchmark.py iteration memory    some of them
    python scripts/benchmark.py --quick             a tenth of the work

Contenders take turns in one process; ratios are of medians of CPU time with one thread, which
other load disturbs least, and wall times with all cores stand beside them where they matter.
Tables are printed as they are measured and written, with every measurement and a plot, to
`outputs/benchmark/`. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import time
import traceback
from pathlib import Path

from benchmarks import ON_CUDA, SUBJECTS


def options(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", metavar="subject", help=", ".join(SUBJECTS))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=int, help="of each contender, instead of each subject's own")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of wall times")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark"))
    parser.set_defaults(size="default")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.subjects) - set(SUBJECTS))
    if unknown:
        parser.error(f"unknown subject {', '.join(unknown)}; known are: {', '.join(SUBJECTS)}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if a subject failed."""
    asked = options(arguments)
    import torch
    from benchmarks import machine, peers, plot
    from benchmarks.report import Report
    from benchmarks.settings import Settings, Skipped

    if asked.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch finds no GPU here", file=sys.stderr)
        return 1
    peers.quiet()
    settings = Settings(asked.size, asked.device, asked.runs, asked.threads)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "scripts/benchmark.py", *given])
    report = Report(settings, machine.describe(asked.device), command)
    print("\n".join(report.introduction()))
    everything = tuple(SUBJECTS) if asked.device == "cpu" else ON_CUDA
    with machine.threads(1):
        for subject in asked.subjects or everything:
            report.open(subject)
            begun = time.perf_counter()
            try:
                if subject not in everything:
                    raise Skipped(f"measured on a CPU alone, not on {asked.device}")
                importlib.import_module(f"benchmarks.{SUBJECTS[subject]}").run(settings, report)
            except Skipped as reason:
                report.skip(subject, str(reason))
            except Exception as error:
                # The others are still worth their time.
                traceback.print_exc()
                report.fail(subject, f"{type(error).__name__}: {error}")
            report.seconds[subject] = time.perf_counter() - begun
            report.write(asked.output)
    plot.draw(report.bars, asked.output / "benchmark.png")
    spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report.seconds.items())
    print(f"\nSeconds: {spent}\nEvery measurement: {asked.output}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Seconds that an import takes, in a process of its own: `python -m benchmarks.import_time CODE`."""

from __future__ import annotations

import sys
import time

if __name__ == "__main__":
    begun = time.perf_counter()
    exec(sys.argv[1])
    print(time.perf_counter() - begun)

"""Seconds that the code of an argument takes, such as an import, in a process of its own."""

from __future__ import annotations

import sys
import time

if __name__ == "__main__":
    begun = time.perf_counter()
    exec(sys.argv[1])
    print(time.perf_counter() - begun)

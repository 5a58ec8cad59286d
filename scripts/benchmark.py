"""EM against scikit-learn on this machine: ratios from interleaved runs in one process.

Prints a table and writes it with every measurement to `outputs/benchmark.json`. One thread and
CPU time, which other load disturbs least; medians of several runs.

    python scripts/benchmark.py --rows 20000 --features 16 --components 16
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmm_lightning import GMMLayer, e_step, m_step

FAMILIES = ("full", "diag", "spherical", "tied")


def data(rows: int, features: int, components: int) -> np.ndarray:
    """Overlapping clusters, the same in every run."""
    rng = np.random.default_rng(0)
    centres = 2.0 * rng.standard_normal((components, features))
    return centres[rng.integers(components, size=rows)] + rng.standard_normal((rows, features))


def matrix_rate(dtype: torch.dtype) -> float:
    """The machine's own matrix-product rate, in operations per second."""
    a = torch.randn(1024, 1024, dtype=dtype)
    seconds = [cpu_time(lambda: a @ a) for _ in range(7)]
    return 2 * 1024**3 / statistics.median(seconds[2:])


def cpu_time(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def iterations(family: str, x: np.ndarray, components: int) -> dict[str, Callable[[], object]]:
    """One EM iteration of each contender from the same responsibilities."""
    from sklearn.mixture import GaussianMixture

    rows = torch.from_numpy(x)
    layer = GMMLayer(x.shape[1], components, family, dtype=rows.dtype)
    labels = np.arange(len(x)) % components
    resp = np.eye(components, dtype=x.dtype)[labels] * 0.5 + 0.5 / components
    peer = GaussianMixture(components, covariance_type=family)
    peer._initialize(x, resp)
    fitted: Any = peer
    with torch.no_grad():
        layer.set_parameters(
            torch.from_numpy(fitted.weights_),
            torch.from_numpy(fitted.means_),
            torch.from_numpy(dense(family, fitted.covariances_, x.shape[1], components)),
        )

    def ours() -> None:
        m_step(layer, e_step(layer, rows))

    def scikit_learn() -> None:
        _, log_resp = peer._e_step(x)
        peer._m_step(x, log_resp)

    return {"gmm_lightning": ours, "scikit-learn": scikit_learn}


def dense(family: str, covariances: np.ndarray, features: int, components: int) -> np.ndarray:
    """scikit-learn's compact covariances as `(K, D, D)`."""
    identity = np.eye(features)
    if family == "full":
        return covariances
    if family == "tied":
        return np.broadcast_to(covariances, (components, features, features)).copy()
    if family == "diag":
        return covariances[:, :, None] * identity
    return covariances[:, None, None] * identity


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    x64 = data(options.rows, options.features, options.components)
    shape = f"N = {options.rows:,}, D = {options.features}, K = {options.components}"
    print(f"One EM iteration, {shape}, one thread, CPU seconds, median of {options.runs}\n")
    print("| family | dtype | gmm_lightning | scikit-learn | ratio |")
    print("|---|---|---|---|---|")
    table = []
    for dtype in (torch.float32, torch.float64):
        x = x64.astype(str(dtype).removeprefix("torch."))
        for family in FAMILIES:
            contenders = iterations(family, x, options.components)
            seconds: dict[str, list[float]] = {name: [] for name in contenders}
            for run in range(options.runs + 1):
                for name, function in contenders.items():
                    spent = cpu_time(function)
                    if run:
                        seconds[name].append(spent)
            ours, peer = (statistics.median(seconds[name]) for name in contenders)
            name = str(dtype).removeprefix("torch.")
            print(
                f"| {family} | {name} | {ours:.4f} | {peer:.4f} | {peer / ours:.2f} |", flush=True
            )
            table.append({"family": family, "dtype": name, "seconds": seconds})
    rates = {str(d).removeprefix("torch."): matrix_rate(d) for d in (torch.float32, torch.float64)}
    print("\nMatrix products: " + ", ".join(f"{r / 1e9:.0f} GFLOP/s {d}" for d, r in rates.items()))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "shape": vars(options) | {"output": str(options.output)},
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "matrix_rate": rates,
        "iterations": table,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"Every measurement: {options.output}")


if __name__ == "__main__":
    main()

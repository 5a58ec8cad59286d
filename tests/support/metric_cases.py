"""Every metric, with rows for it. `python metric_cases.py FOLDER` runs all on two processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning import MixtureOfGaussians
from gmm_lightning import metrics as m
from gmm_lightning.distributions import probability_integral_transform
from gmm_lightning.metrics._sums import SumMetric

NUM_ROWS, K = 101, 4


def seeded(seed: int) -> Generator:
    return Generator(torch.get_default_device()).manual_seed(seed)


MAKE: dict[str, Callable[[int], SumMetric]] = {
    "log-likelihood": lambda _: m.LogLikelihood(),
    "bic": lambda _: m.BIC(17),
    "aic": lambda _: m.AIC(17),
    "icl": lambda _: m.ICL(17),
    "entropy": lambda _: m.ResponsibilityEntropy(),
    "effective": lambda _: m.EffectiveComponents(K),
    "rand": lambda _: m.LabelAgreement(3, K),
    "information": lambda _: m.LabelAgreement(3, K, "normalized_mutual_info_score"),
    "histogram": lambda _: m.PITHistogram(7),
    "calibration": lambda _: m.CalibrationError(),
    "kolmogorov": lambda _: m.CalibrationError(norm="max"),
    "root mean square": lambda _: m.CalibrationError(norm="l2"),
    "coverage": lambda _: m.Coverage(0.8),
    "crps": lambda _: m.CRPS(),
    "energy": lambda seed: m.EnergyScore(20, seeded(seed)),
}


@dataclass
class Rows:
    """One forecast, one observed value and one weight, 0 among them, for each row."""

    mixture: MixtureOfGaussians
    target: Tensor
    weight: Tensor | None

    @classmethod
    def make(cls, n: int = NUM_ROWS) -> Rows:
        source = seeded(3)
        like: dict[str, Any] = {"generator": source, "device": source.device}
        mixture = MixtureOfGaussians(
            torch.randn(n, K, **like),
            2 * torch.randn(n, K, 1, **like),
            torch.randn(n, K, 1, 1, **like).exp(),
        )
        weight = torch.arange(n, device=source.device) % 4
        return cls(mixture, 2 * torch.randn(n, 1, **like), weight)

    def part(self, start: int, stop: int) -> Rows:
        at, mixture = slice(start, stop), self.mixture
        part = MixtureOfGaussians(mixture.mixture_logits[at], mixture.means[at], mixture.scale[at])
        return Rows(part, self.target[at], None if self.weight is None else self.weight[at])

    def split(self, *sizes: int) -> Iterator[Rows]:
        start = 0
        for size in sizes:
            yield self.part(start, start + size)
            start += size

    def arguments(self) -> dict[str, Any]:
        """What all metrics together ask for."""
        return {
            "log_prob": self.mixture.log_prob(self.target),
            "log_joint": self.mixture.log_joint(self.target),
            "responsibilities": self.mixture.responsibilities(self.target),
            "labels": (self.target[:, 0] > -1).long() + (self.target[:, 0] > 1),
            "pit": probability_integral_transform(self.mixture, self.target),
            "mixture": self.mixture,
            "target": self.target,
            "weight": self.weight,
        }

    def feed(self, metric: SumMetric) -> SumMetric:
        """Update a metric with what it takes of these rows."""
        metric.update(**metric._filter_kwargs(**self.arguments()))
        return metric


def values(rank: int, rows: Rows) -> dict[str, Tensor]:
    """Every metric of one process's rows, two updates each, reduced over all processes."""
    found = {}
    half = len(rows.target) // 2
    for name, make in MAKE.items():
        metric = make(rank)
        for part in rows.split(half, len(rows.target) - half):
            part.feed(metric)
        found[name] = metric.compute()
    return found


def on_two_processes(folder: Path, rank: int) -> None:
    """Shares of unequal size: 33 and 68 rows."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),
    )
    own = list(Rows.make().split(33, NUM_ROWS - 33))[rank]
    torch.save(values(rank, own), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    # A fork has imported everything already.
    other = multiprocessing.get_context("fork").Process(target=on_two_processes, args=(folder, 1))
    other.start()
    on_two_processes(folder, 0)
    other.join()
    sys.exit(other.exitcode)

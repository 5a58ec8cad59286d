"""Nine ways to draw from a mixture of four Gaussians, each with its time and a figure.

Draws come from the whole mixture, from one component, from shells of Mahalanobis radius about each
component, or exactly from the mixture restricted to a ball, a box or a half-space.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from command_line import example_parser, integer
from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.distributions import Ball, Box, Confidence, HalfSpace, Shell
from gmm_lightning.plotting import plot_samples
from reporting import Reporter, new_axes

# Arguments of `MixtureOfGaussians.sample`.
WAYS_TO_DRAW: dict[str, dict[str, Any]] = {
    "the whole mixture": {},
    "evenly spread": {"quasi": True},
    "the third component": {"component": 2},
    "within one deviation": {"within": Shell(0.0, 1.0)},
    "between two and three": {"within": Shell(2.0, 3.0)},
    "the outermost 1 %": {"within": Confidence(0.99, 1.0)},
    "in a ball far out": {"within": Ball((9.0, 4.0), 2.0)},
    "in a box": {"within": Box((-1.0, 0.0), (3.0, math.inf))},
    "behind a line": {"within": HalfSpace((1.0, 1.0), 9.0)},
}


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Draw in every way."""
    parser = example_parser("sampling_tour", __doc__)
    parser.add_argument("--num-rows", type=integer(1), default=1500, help="draws of each way")
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    mixture = four_components()
    generator = torch.Generator().manual_seed(options.seed)
    axes = new_axes(3, 3, (13.2, 10.8))
    rows = []
    for ax, (name, how) in zip(axes.flat, WAYS_TO_DRAW.items(), strict=True):
        start = time.perf_counter()
        x, z = mixture.sample(options.num_rows, generator=generator, return_component=True, **how)
        milliseconds = 1e3 * (time.perf_counter() - start)
        radius = mixture.mahalanobis(x).gather(-1, z.unsqueeze(-1))
        rows.append((name, len(x), milliseconds, float(radius.min()), float(radius.max())))
        plot_samples(mixture, x, component=z, within=how.get("within"), ax=ax, title=name)
    report.table(("draws", "rows", "milliseconds", "least radius", "largest radius"), rows)
    report.print("radius: Mahalanobis distance to the component that a row was drawn from")
    report.figure("sampling_tour", axes)
    return report


def four_components() -> MixtureOfGaussians:
    """Two round clusters, a long diagonal one, and a flat one."""
    weights = torch.tensor([0.3, 0.25, 0.3, 0.15])
    means = torch.tensor([[-4.0, 3.0], [4.0, 3.5], [0.0, -1.0], [5.0, -4.0]])
    covariances = torch.tensor(
        [
            [[1.0, 0.0], [0.0, 1.0]],
            [[0.6, 0.3], [0.3, 1.2]],
            [[5.0, 2.2], [2.2, 1.5]],
            [[2.0, -0.2], [-0.2, 0.1]],
        ]
    )
    layer = GMMLayer.from_parameters(weights, means, covariances)
    return layer.requires_grad_(requires_grad=False).distribution()


if __name__ == "__main__":
    main()

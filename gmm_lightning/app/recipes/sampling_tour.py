"""Draws from every part of a mixture: all of it, one component, within radii, a ball, a box."""

from __future__ import annotations

import math
import time

import torch

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.distributions import (
    Ball,
    Box,
    Confidence,
    HalfSpace,
    MixtureOfGaussians,
    Shell,
)
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting import plot_samples
from gmm_lightning.plotting.figures import dynamic_figsize, new_grid


@torch.no_grad()
def four_components() -> MixtureOfGaussians:
    """Two round clusters, a long one across, and a flat one."""
    means = torch.tensor([[-4.0, 3.0], [4.0, 3.5], [0.0, -1.0], [5.0, -4.0]])
    covariances = torch.tensor(
        [
            [[1.0, 0.0], [0.0, 1.0]],
            [[0.6, 0.3], [0.3, 1.2]],
            [[5.0, 2.2], [2.2, 1.5]],
            [[2.0, -0.2], [-0.2, 0.1]],
        ]
    )
    layer = GMMLayer.from_parameters(torch.tensor([0.3, 0.25, 0.3, 0.15]), means, covariances)
    weights, means, scale = layer.mixture_logits, layer.means, layer.scale
    return MixtureOfGaussians(weights.detach(), means.detach(), scale.detach())


def sampling_tour(account: Account, *, num_rows: int = 1500, seed: int = 0) -> None:
    """Nine ways to draw, each with what it costs and a picture.

    Args:
        account: what it tells.
        num_rows: rows of each picture.
        seed: of the draws.
    """
    mixture = four_components()
    generator = torch.Generator().manual_seed(seed)
    stops = {
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
    grid = new_grid(3, 3, dynamic_figsize(3, 3, 4.4, 3.6))
    lines = []
    for ax, (name, options) in zip(grid.flat, stops.items(), strict=True):
        began = time.perf_counter()
        x, z = mixture.sample(num_rows, generator=generator, return_component=True, **options)
        took = time.perf_counter() - began
        radius = mixture.mahalanobis(x).gather(-1, z.unsqueeze(-1))
        lines.append((name, len(x), 1e3 * took, float(radius.min()), float(radius.max())))
        within = options.get("within")
        plot_samples(mixture, x, component=z, within=within, ax=ax, title=name)
    account.table(("draws", "rows", "milliseconds", "least radius", "largest radius"), lines)
    account.say("radius: Mahalanobis distance to the component that a row was drawn from")
    account.picture("sampling_tour", grid)

"""Every registered projection with values for three components of two features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning import GMMLayer
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.projections import Frozen, Projection
from gmm_lightning.projections import registry as projections

# Values that hold in the fits of `rows`; what is not named here is made without arguments.
VALUES: dict[str, dict[str, Any]] = {
    "fixed_weights": {"weights": [0.2, 0.3, 0.5]},
    "weight_bounds": {"lower": [0.4, 0.0, 0.1], "upper": [1.0, 0.2, 1.0]},
    "mean_bounds": {"lower": [0.5, -0.3], "upper": [3.0, 2.0]},
    "variance_bounds": {"lower": 0.9, "upper": 1.6},
    "eigenvalue_ratio": {"ratio": 1.3},
    "linear_means": {"matrix": [[1, 0], [1, 1], [1, 2]]},
    "frozen": {"weights": [1], "means": [0], "covariances": True},
}


def make_projection(name: str) -> Projection:
    """A projection by its name, or a part of `frozen` by `frozen:part`."""
    name, _, part = name.partition(":")
    if part:
        return Frozen.of(part)
    return projections.get(name)(**VALUES.get(name, {}))


def constrained_cases() -> list[tuple[str, str]]:
    """Every family with every projection that serves it."""
    return [
        (family, name)
        for family in covariances.names
        for name in projections.names
        if make_projection(name).supports(covariances.create(family))
    ]


def tensors(layer: GMMLayer) -> list[Tensor]:
    """Copies of a layer's parameters."""
    return [p.detach().clone() for p in layer.parameters()]


def gain_within(layer: GMMLayer, x: Tensor, step: float, generator: torch.Generator) -> float:
    """The largest rise of the objective per length, along steps brought back to the constraint.

    Along the gradient and at random: at a maximum under the constraint none rises but by rounding.
    """
    objective = layer.objective(x).sum()
    gradient = torch.autograd.grad(objective, list(layer.parameters()))
    start, gains = tensors(layer), []
    directions = [gradient]
    for _ in range(8):
        directions.append(
            tuple(torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in start)
        )
    for direction in directions:
        with torch.no_grad():
            for p, own, d in zip(layer.parameters(), start, direction, strict=True):
                p.copy_(own + step * d)
            layer.constrain_()
            gains.append(float(layer.objective(x).sum() - objective) / step)
            for p, own in zip(layer.parameters(), start, strict=True):
                p.copy_(own)
    return max(gains)

"""Draws from a mixture: what can be asked of them, checked once, and the draws themselves."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from torch import Generator, Size, Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.distributions._region import Located, Radial
from gmm_lightning.distributions.constrained import require_finite, sample_within
from gmm_lightning.distributions.density import MixtureDensity
from gmm_lightning.distributions.quasi import check_dimension, even_draws
from gmm_lightning.distributions.sampling import (
    as_index,
    check_range,
    choose_components,
    given_components,
    unwhiten_rows,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import full_precision

SampleShape = tuple[int, ...] | Size | int


@dataclass(frozen=True, eq=False)
class DrawOptions:
    """How rows are drawn: the options of `MixtureOfGaussians.sample`, checked when they are made.

    Args:
        component: draw from this one only: an index or a tensor of indices.
        within: a region that the draws are given.
        temperature: divides logits and multiplies covariances.
        quasi: scrambled Sobol points.
        antithetic: neighbouring rows mirror each other.

    Raises:
        InvalidArgumentError: a value that no mixture could be drawn with, or options in each
            other's way.
    """

    component: int | Tensor | None = None
    within: Any = None
    temperature: float = 1.0
    quasi: bool = False
    antithetic: bool = False

    def __post_init__(self) -> None:
        if self.component is not None:
            as_index(self.component)
        if isinstance(self.temperature, Tensor) and self.temperature.requires_grad:
            raise InvalidArgumentError("no gradient flows to the temperature: pass its value")
        require_number("temperature", self.temperature, above=0)
        for name in ("quasi", "antithetic"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(
                    f"{name} must be True or False, got {getattr(self, name)!r}"
                )
        if self.within is not None:
            if not isinstance(self.within, Radial | Located):
                raise InvalidArgumentError(
                    "within must be a region (Shell, Confidence, Ball, Box, HalfSpace or Where), "
                    f"got {self.within!r}"
                )
            if self.quasi or self.antithetic:
                raise InvalidArgumentError("draws within a region are independent ones only")
        if self.antithetic and self.component is not None and as_index(self.component).dim():
            raise InvalidArgumentError(
                "antithetic rows share a component in pairs: give one component, or none"
            )
        if self.quasi and self.antithetic:
            raise InvalidArgumentError(
                "quasi and antithetic are two ways to spread draws: choose one"
            )

    def check(self, num_components: int, num_features: int) -> None:
        """Raise where a mixture of these sizes cannot be drawn from like this.

        Raises:
            InvalidArgumentError: a component out of range, a region for rows of another width,
                or too many features for quasi-random draws.
        """
        if self.component is not None:
            check_range(as_index(self.component), num_components)
        if self.within is not None:
            self.within.check(num_features)
        if self.quasi:
            check_dimension(num_features)


def full_shape(mixture: MixtureDensity, sample_shape: SampleShape) -> Size:
    """`(*S, *B)` for draws of a given number or shape.

    Raises:
        InvalidArgumentError: a negative number of rows.
    """
    single = isinstance(sample_shape, SupportsIndex)
    try:
        rows = Size([operator.index(sample_shape)] if single else sample_shape)
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"sample_shape must be a number of rows or a tuple of numbers, got {sample_shape!r}"
        ) from None
    if any(n < 0 for n in rows):
        raise InvalidArgumentError(f"sample_shape must not be negative, got {tuple(rows)}")
    return Size([*rows, *mixture.batch_shape])


@torch.no_grad()
def drawn(
    mixture: MixtureDensity,
    sample_shape: SampleShape,
    options: DrawOptions,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows `(*S, *B, D)` and their components `(*S, *B)`: see `MixtureOfGaussians.sample`."""
    shape = full_shape(mixture, sample_shape)
    require_finite(mixture)
    temperature = float(options.temperature)
    # From the largest on: a tiny temperature leaves the most probable component alone.
    logits = mixture.mixture_logits - mixture.mixture_logits.amax(-1, keepdim=True)
    weights = (logits / temperature).softmax(-1)
    if not math.sqrt(temperature) < torch.finfo(weights.dtype).max:
        raise InvalidArgumentError(f"temperature {temperature} is too high for {weights.dtype}")
    z = options.component
    z = None if z is None else given_components(z, shape, weights)
    if shape.numel() == 0:
        empty = torch.zeros(shape, dtype=torch.long, device=weights.device)
        return weights.new_empty(*shape, mixture.num_features), empty
    if options.within is not None:
        return sample_within(options.within, mixture, shape, z, temperature, generator)
    if (options.quasi or options.antithetic) and shape.numel() > 0:
        z, noise = even_draws(
            weights, z, shape, mixture.num_features, quasi=options.quasi, generator=generator
        )
        noise *= math.sqrt(temperature)
    else:
        z = choose_components(weights, shape, generator) if z is None else z
        noise = weights.new_empty(*shape, mixture.num_features)
        noise.normal_(std=math.sqrt(temperature), generator=generator)
    with full_precision(noise.device):
        return unwhiten_rows(mixture.covariance, mixture.means, mixture.scale, z, noise), z

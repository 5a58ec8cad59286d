"""Samples from a mixture."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

import torch
from torch import Generator, Size, Tensor

from gmm_lightning.distributions._ancestral import choose_components, unwhiten_rows
from gmm_lightning.distributions.density.mixture_density import MixtureDensity
from gmm_lightning.distributions.density.options import DrawOptions, SampleShape, given_components
from gmm_lightning.distributions.density.quasi import low_variance_normals
from gmm_lightning.distributions.truncation import TemperedMixture, sample_within
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, full_precision


def full_shape(mixture: MixtureDensity, sample_shape: SampleShape) -> Size:
    """The shape `(*S, *B)` of samples from a mixture."""
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
def draw_samples(
    mixture: MixtureDensity,
    sample_shape: SampleShape,
    options: DrawOptions,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples `(*S, *B, D)` and their components `(*S, *B)`: see `MixtureOfGaussians.sample`."""
    shape = full_shape(mixture, sample_shape)
    _require_finite(mixture)
    temperature = float(options.temperature)
    # Relative to the largest: at a tiny temperature only the most probable component is left.
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
        tempered = _tempered_parameters(mixture, temperature)
        return sample_within(options.within, tempered, shape, z, mixture.means.dtype, generator)
    if options.quasi or options.antithetic:
        z, noise = low_variance_normals(
            weights, z, shape, mixture.num_features, quasi=options.quasi, generator=generator
        )
        noise *= math.sqrt(temperature)
    else:
        z = choose_components(weights, shape, generator) if z is None else z
        noise = weights.new_empty(*shape, mixture.num_features)
        noise.normal_(std=math.sqrt(temperature), generator=generator)
    with full_precision(noise.device):
        return unwhiten_rows(mixture.covariance, mixture.means, mixture.scale, z, noise), z


def _tempered_parameters(mixture: MixtureDensity, temperature: float) -> TemperedMixture:
    """Parameters in the precision of sums: logits over, covariances times the temperature."""
    wide = accumulator_dtype(mixture.means.device)
    return TemperedMixture(
        mixture.covariance,
        (mixture.mixture_logits.to(wide) / temperature).log_softmax(-1),
        mixture.means.to(wide),
        mixture.scale.to(wide),
        math.sqrt(temperature),
    )


def _require_finite(mixture: MixtureDensity) -> None:
    """Raise unless all parameters are finite; a weight of 0 is allowed."""
    finite = (bool(values.isfinite().all()) for values in (mixture.means, mixture.scale))
    if not all(finite) or bool(mixture.log_weights.isnan().any()):
        raise InvalidArgumentError("the parameters of the mixture must be finite, and are not")

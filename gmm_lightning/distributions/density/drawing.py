"""Samples from a mixture."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

import torch
from torch import Generator, Size, Tensor

from gmm_lightning.distributions.density.ancestral import choose_components, unwhiten_rows
from gmm_lightning.distributions.density.mixture_density import M, MixtureDensity
from gmm_lightning.distributions.density.options import DrawOptions, SampleShape
from gmm_lightning.distributions.density.quasi import low_variance_normals
from gmm_lightning.distributions.density.within import sample_within
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, full_precision

_INDEPENDENT = DrawOptions()


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
    options: DrawOptions = _INDEPENDENT,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples `(*S, *B, D)` and their components `(*S, *B)`: see `MixtureOfGaussians.sample`."""
    shape, means, d = full_shape(mixture, sample_shape), mixture.means, mixture.num_features
    finite = (bool(values.isfinite().all()) for values in (means, mixture.scale))
    # A weight of 0 is allowed.
    if not all(finite) or bool(mixture.log_weights.isnan().any()):
        raise InvalidArgumentError("the parameters of the mixture must be finite, and are not")
    options.check(mixture.num_components, d)
    temperature = float(options.temperature)
    # Relative to the largest: at a tiny temperature only the most probable component is left.
    logits = mixture.mixture_logits - mixture.mixture_logits.amax(-1, keepdim=True)
    weights = (logits / temperature).softmax(-1)
    if not math.sqrt(temperature) < torch.finfo(weights.dtype).max:
        raise InvalidArgumentError(f"temperature {temperature} is too high for {weights.dtype}")
    z = options.components(shape, means.device)
    if shape.numel() == 0:
        return means.new_empty(*shape, d), torch.zeros(shape, dtype=torch.long, device=means.device)
    if options.within is not None:
        wide = mixture.map_parameters(lambda p: p.to(accumulator_dtype(p.device)))
        tempered = temper(wide, temperature)
        return sample_within(options.within, tempered, shape, z, means.dtype, generator)
    if options.quasi or options.antithetic:
        found, noise = low_variance_normals(
            weights, shape, d, quasi=options.quasi, generator=generator
        )
        z = found if z is None else z
    else:
        z = choose_components(weights, shape, generator) if z is None else z
        noise = means.new_empty(*shape, d).normal_(generator=generator)
    noise *= math.sqrt(temperature)
    with full_precision(noise.device):
        return unwhiten_rows(mixture.covariance, means, mixture.scale, z, noise), z


def temper(mixture: M, temperature: float) -> M:
    """The mixture with logits divided, and covariances multiplied, by the temperature."""
    if temperature == 1:
        return mixture
    factor = math.sqrt(temperature) * mixture.scale_tril
    return mixture.with_parameters(mixture.mixture_logits / temperature, mixture.means, factor)

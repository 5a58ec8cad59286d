"""Samples from a mixture, and their options."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Generator, Size, Tensor
from torch.quasirandom import SobolEngine

from gmm_lightning._messages import describe
from gmm_lightning._tracing import (
    is_tracing,
    is_transformed,
    require_readable,
    value_of,
    values_are_readable,
)
from gmm_lightning._validation import as_generator, require_bool, require_number
from gmm_lightning.distributions.density.ancestral import draw_noise, unwhiten_rows
from gmm_lightning.distributions.density.mixture_density import MixtureDensity
from gmm_lightning.distributions.density.within import sample_within
from gmm_lightning.distributions.truncation import Region
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, full_precision

SampleShape = tuple[int, ...] | Size | int


@dataclass(frozen=True, eq=False)
class DrawOptions:
    """Options of draws, checked at construction: see `MixtureOfGaussians.sample`."""

    component: int | Tensor | None = None
    within: Region | None = None
    temperature: float = 1.0
    quasi: bool = False
    antithetic: bool = False

    def __post_init__(self) -> None:
        index = None if self.component is None else _as_index(self.component)
        if isinstance(self.temperature, Tensor) and self.temperature.requires_grad:
            raise InvalidArgumentError("no gradient flows to the temperature: pass its value")
        require_number("temperature", self.temperature, above=0)
        for name in ("quasi", "antithetic"):
            require_bool(name, getattr(self, name))
        if not isinstance(self.within, Region | None):
            raise InvalidArgumentError(
                "within must be a region (Shell, Confidence, Ball, Box, HalfSpace or Where), got "
                f"{describe(self.within)}"
            )
        if self.within is not None and (self.quasi or self.antithetic):
            raise InvalidArgumentError("draws within a region are independent ones only")
        if self.antithetic and index is not None and index.dim():
            raise InvalidArgumentError(
                "antithetic rows share a component in pairs: give one component, or none"
            )
        if self.quasi and self.antithetic:
            raise InvalidArgumentError(
                "quasi and antithetic are two ways to spread draws: choose one"
            )

    def check(self, num_components: int, num_features: int) -> None:
        """Raise `InvalidArgumentError` where these options do not fit a mixture of given sizes."""
        index = torch.zeros(0) if self.component is None else _as_index(self.component)
        if (
            index.numel()
            and values_are_readable(index)
            and not (int(index.min()) >= 0 and int(index.max()) < num_components)
        ):
            ends = f"{int(index.min())} to {int(index.max())}"
            found = index.tolist() if index.numel() <= 10 else ends
            raise InvalidArgumentError(f"component must be in [0, {num_components}), got {found}")
        if self.within is not None:
            self.within.check(num_features)
        if self.quasi and num_features >= SobolEngine.MAXDIM:
            raise InvalidArgumentError(
                f"quasi-random draws have at most {SobolEngine.MAXDIM - 1} features, got "
                f"{num_features}"
            )

    def components(self, shape: Size, device: torch.device) -> Tensor | None:
        """The given component indices, expanded to shape `(*S, *B)`."""
        if self.component is None:
            return None
        index = _as_index(self.component).to(device)
        try:
            return index.expand(shape)
        except RuntimeError:
            raise InvalidArgumentError(
                f"component must broadcast to {tuple(shape)}, got shape {tuple(index.shape)}"
            ) from None


def _as_index(component: int | Tensor) -> Tensor:
    """Component indices as a tensor of integers."""
    try:
        index = torch.as_tensor(component)
    except (TypeError, ValueError, RuntimeError):
        index = torch.zeros(())
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InvalidArgumentError(f"component must be an integer index, got {describe(component)}")
    return index.long()


def full_shape(mixture: MixtureDensity, sample_shape: SampleShape) -> Size:
    """The shape `(*S, *B)` of samples from a mixture."""
    single = isinstance(sample_shape, SupportsIndex)
    try:
        rows = Size([operator.index(sample_shape)] if single else sample_shape)
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"sample_shape must be a number of rows or a tuple of numbers, "
            f"got {describe(sample_shape)}"
        ) from None
    if any(n < 0 for n in rows):
        raise InvalidArgumentError(f"sample_shape must not be negative, got {tuple(rows)}")
    return Size([*rows, *mixture.batch_shape])


@torch.no_grad()
def draw_samples(
    mixture: MixtureDensity,
    sample_shape: SampleShape,
    options: DrawOptions | None = None,
    generator: Generator | int | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples `(*S, *B, D)` and their components `(*S, *B)`: see `MixtureOfGaussians.sample`."""
    options, generator = options or DrawOptions(), as_generator(generator, mixture.means.device)
    # No gradient, and no tangent of forward mode either.
    mixture = mixture.map_parameters(Tensor.detach)
    shape, means, d = full_shape(mixture, sample_shape), mixture.means, mixture.num_features
    # A weight of 0 is allowed.
    good = (means.isfinite(), mixture.scale.isfinite(), ~mixture.log_weights.isnan())
    if any(value_of(each.all()) is False for each in good):
        raise InvalidArgumentError("the parameters of the mixture must be finite, and are not")
    if options.quasi or options.within is not None:
        # Random numbers are hidden too, where vmap makes different ones.
        hidden = (*good, torch.rand(0, device=means.device))
        require_readable("quasi-random draws and draws within a region", *hidden)
        if options.quasi and not is_tracing() and is_transformed(hidden[-1]):
            raise InvalidArgumentError(
                "torch makes no Sobol points inside its function transforms: draw quasi-random "
                "rows outside of torch.func, or independent ones"
            )
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
        tempered = wide.temper(temperature)
        return sample_within(options.within, tempered, shape, z, means.dtype, generator)
    z, noise = draw_noise(
        weights, z, shape, d, generator, quasi=options.quasi, antithetic=options.antithetic
    )
    noise *= math.sqrt(temperature)
    with full_precision(noise.device):
        return unwhiten_rows(mixture, z, noise), z

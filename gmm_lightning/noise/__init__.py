"""Noise, one kind each; a new module here is a new kind."""

from __future__ import annotations

import copy

import torch

from gmm_lightning._plugins import Registry
from gmm_lightning.noise.base import Noise
from gmm_lightning.noise.gaussian import Gaussian
from gmm_lightning.noise.uniform import Uniform

registry: Registry[Noise] = Registry(__name__, Noise, "noise")

NoiseSpec = str | Noise | None


def bind_noise(
    spec: NoiseSpec,
    num_features: int,
    batch_shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> Noise | None:
    """A copy of a noise, from an instance or a name, with tensors of a layer's sizes and kind.

    Raises:
        InvalidArgumentError: an unknown name, or values that do not fit the sizes.
    """
    if spec is None:
        return None
    own = copy.deepcopy(registry.create(spec))
    own.bind(num_features, batch_shape)
    return own.to(device, dtype)


__all__ = ["Gaussian", "Noise", "NoiseSpec", "Uniform", "bind_noise", "registry"]

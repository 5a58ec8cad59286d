"""Mixtures in float64, for conversion to other libraries, and their arrays as tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer

LayerOrMixture = GMMLayer | MixtureOfGaussians


def require_mixture(source: object) -> None:
    """Raise `InvalidArgumentError` unless this is a layer or a mixture."""
    if not isinstance(source, GMMLayer | MixtureOfGaussians):
        raise InvalidArgumentError(
            f"expected a GMMLayer or a MixtureOfGaussians, got {type(source).__name__}"
        )


def require_no_evidence(source: LayerOrMixture, system: str) -> None:
    """Raise for a layer with evidence or noise, whose density is not that of its mixture."""
    if isinstance(source, GMMLayer) and source.evidence is not None:
        raise InvalidArgumentError(
            f"{system} has no place for the layer's evidence: set layer.evidence = None first"
        )
    if isinstance(source, GMMLayer) and source.noise is not None:
        raise InvalidArgumentError(
            f"{system} has no place for the layer's noise: convert layer.distribution(), which is "
            "the Gaussian part, or set layer.noise = None first"
        )


def to_float64(source: LayerOrMixture) -> MixtureOfGaussians:
    """Mixture in float64 on the CPU, without a graph.

    The constrained parameters of a layer are computed from its raw ones in float64, so that a
    float32 layer loses no digit.
    """
    require_mixture(source)

    def wide(value: Tensor) -> Tensor:
        return value.detach().cpu().to(torch.float64)

    logits, means, family = wide(source.mixture_logits), wide(source.means), source.covariance
    if isinstance(source, GMMLayer):
        return MixtureOfGaussians(logits, means, family.scale(wide(source.raw_scale)), family)
    return MixtureOfGaussians(logits, means, wide(source.scale), family)


def to_single_float64(source: LayerOrMixture, system: str) -> MixtureOfGaussians:
    """Mixture in float64, for a system without batches and evidence."""
    mixture = to_float64(source)
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"{system} holds one mixture, this is a batch of shape {tuple(mixture.batch_shape)}: "
            "convert them one by one"
        )
    require_no_evidence(source, system)
    return mixture


def as_tensors(system: str, **parts: ArrayLike | None) -> list[Tensor]:
    """Copies of another library's arrays as tensors, checked to be present and finite."""
    missing = [name for name, value in parts.items() if value is None]
    if missing:
        raise InvalidArgumentError(
            f"the mixture of {system} has no {', '.join(missing)}: fit it first"
        )
    try:
        tensors = [torch.from_numpy(np.array(value)) for value in parts.values()]
        for name, value in zip(parts, tensors, strict=True):
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} is not finite")
        return tensors
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{', '.join(parts)} of {system} must be arrays of numbers: {error}"
        ) from None

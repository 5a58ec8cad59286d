"""Mixtures in float64 to convert from, and layers from converted parts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer

LayerOrMixture = GMMLayer | MixtureOfGaussians


def require_mixture(source: object) -> None:
    """Raise unless this is a layer or a mixture.

    Raises:
        InvalidArgumentError: naming the type.
    """
    if not isinstance(source, GMMLayer | MixtureOfGaussians):
        raise InvalidArgumentError(
            f"expected a GMMLayer or a MixtureOfGaussians, got {type(source).__name__}"
        )


def require_no_evidence(source: LayerOrMixture, system: str) -> None:
    """Raise for a layer with evidence, whose density is not that of its mixture.

    Raises:
        InvalidArgumentError: the layer has evidence.
    """
    if isinstance(source, GMMLayer) and source.evidence is not None:
        raise InvalidArgumentError(
            f"{system} has no place for the layer's evidence: set layer.evidence = None first"
        )


def to_float64(source: LayerOrMixture) -> MixtureOfGaussians:
    """Mixture in float64 on the CPU, without a graph.

    The constrained parameters of a layer are computed in float64 from its raw ones, so that a
    float32 layer loses no digit.

    Raises:
        InvalidArgumentError: neither a layer nor a mixture.
    """
    require_mixture(source)

    def wide(value: Tensor) -> Tensor:
        return value.detach().cpu().to(torch.float64)

    family = source.covariance
    scale = (
        family.scale(wide(source.raw_scale)) if isinstance(source, GMMLayer) else wide(source.scale)
    )
    return MixtureOfGaussians(wide(source.mixture_logits), wide(source.means), scale, family)


def to_single_float64(source: LayerOrMixture, system: str) -> MixtureOfGaussians:
    """Mixture in float64, for a system without batches and evidence.

    Raises:
        InvalidArgumentError: a batch of mixtures, or a layer with evidence.
    """
    mixture = to_float64(source)
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"{system} holds one mixture, this is a batch of shape {tuple(mixture.batch_shape)}: "
            "convert them one by one"
        )
    require_no_evidence(source, system)
    return mixture


def as_tensors(system: str, **parts: ArrayLike | None) -> list[Tensor]:
    """Copies of another system's arrays as tensors.

    Raises:
        InvalidArgumentError: one is None, as in a model that is not fitted, or not an array of
            finite numbers.
    """
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


@torch.no_grad()
def make_layer(
    weights: Tensor, means: Tensor, scale: Tensor, covariance: str | Covariance
) -> GMMLayer:
    """Layer with exactly these means; weights and scale are rounded as their logarithms.

    Raises:
        InvalidArgumentError: shapes that do not fit each other, or negative weights.
    """
    *batch, num_components, num_features = means.shape
    layer = GMMLayer(
        num_features,
        num_components,
        covariance,
        batch_shape=tuple(batch),
        device=means.device,
        dtype=means.dtype,
    )
    if weights.shape != means.shape[:-1] or scale.shape != layer.raw_scale.shape:
        raise InvalidArgumentError(
            f"means of shape {tuple(means.shape)} need weights of shape {tuple(means.shape[:-1])} "
            f"and a scale of shape {tuple(layer.raw_scale.shape)}, got {tuple(weights.shape)} and "
            f"{tuple(scale.shape)}"
        )
    if not bool((weights >= 0).all() & (weights.sum(-1) > 0).all()):
        raise InvalidArgumentError(f"weights must be >= 0 and not all 0, got {weights.tolist()}")
    layer.write(weights, means, scale)
    return layer

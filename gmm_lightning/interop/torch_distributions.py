"""Conversion of torch's `MixtureSameFamily`."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal
from torch.distributions import Normal as Univariate

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop._parts import LayerOrMixture, require_mixture, require_no_evidence
from gmm_lightning.layers import GMMLayer


def to_torch(layer: LayerOrMixture) -> MixtureSameFamily:
    """`MixtureSameFamily` over `MultivariateNormal` with the same density, differentiable.

    Raises:
        InvalidArgumentError: a layer with evidence, which torch cannot hold.

    Example:
        >>> to_torch(GMMLayer(num_features=2, num_components=3)).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """
    require_mixture(layer)
    require_no_evidence(layer, "torch")
    return (layer.distribution() if isinstance(layer, GMMLayer) else layer).to_torch()


@torch.no_grad()
def from_torch(mixture: Distribution) -> GMMLayer:
    """Layer with copies of the parameters of torch's mixture; logits and means are exact.

    Raises:
        InvalidArgumentError: components that are neither `MultivariateNormal` (the family `full`)
            nor `Independent(Normal, 1)` (`diag`).

    Example:
        >>> layer = GMMLayer(num_features=2, num_components=3)
        >>> torch.equal(from_torch(to_torch(layer)).means, layer.means)
        True
    """
    if not isinstance(mixture, MixtureSameFamily):
        raise InvalidArgumentError(
            f"expected a MixtureSameFamily of torch, got {type(mixture).__name__}"
        )
    categorical, components = mixture.mixture_distribution, mixture.component_distribution
    if isinstance(components, MultivariateNormal):
        family, scale = "full", components.scale_tril
    elif (
        isinstance(components, Independent)
        and isinstance(components.base_dist, Univariate)
        and components.reinterpreted_batch_ndims == 1
    ):
        family, scale = "diag", components.base_dist.scale
    else:
        raise InvalidArgumentError(
            f"expected components MultivariateNormal or Independent(Normal, 1), got {components}"
        )
    means = components.mean
    *batch, k, d = means.shape
    options: dict[str, Any] = {"device": means.device, "dtype": means.dtype}
    layer = GMMLayer(d, k, family, batch_shape=tuple(batch), **options)
    layer.mixture_logits.copy_(categorical.logits)
    layer.means.copy_(means)
    layer.raw_scale.copy_(layer.covariance.raw(scale))
    return layer

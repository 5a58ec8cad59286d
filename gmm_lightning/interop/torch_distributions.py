"""torch's `MixtureSameFamily` as a layer, and back."""

from __future__ import annotations

import torch
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal
from torch.distributions import Normal as Univariate

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop._parts import Source, layer_of, require_mixture, require_no_evidence
from gmm_lightning.layers import GMMLayer


def to_torch(layer: Source) -> MixtureSameFamily:
    """The same density as a `MixtureSameFamily` over `MultivariateNormal`; gradients flow through.

    Raises:
        InvalidArgumentError: a layer with evidence, for which torch has no place.

    Example:
        >>> to_torch(GMMLayer(num_features=2, num_components=3)).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """
    require_mixture(layer)
    require_no_evidence(layer, "torch")
    return (layer.distribution() if isinstance(layer, GMMLayer) else layer).to_torch()


@torch.no_grad()
def from_torch(mixture: Distribution) -> GMMLayer:
    """A layer with the parameters of torch's mixture, which are copied.

    Logits and means are exact. Components are `MultivariateNormal` (family `full`) or
    `Independent(Normal, 1)` (family `diag`).

    Raises:
        InvalidArgumentError: another distribution.

    Example:
        >>> layer = GMMLayer(num_features=2, num_components=3)
        >>> torch.equal(from_torch(to_torch(layer)).means, layer.means)
        True
    """
    if not isinstance(mixture, MixtureSameFamily):
        raise InvalidArgumentError(
            f"expected a MixtureSameFamily of torch, got {type(mixture).__name__}"
        )
    chosen, components = mixture.mixture_distribution, mixture.component_distribution
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
    layer = layer_of(chosen.probs, components.mean, scale, family)
    layer.mixture_logits.copy_(chosen.logits)
    return layer

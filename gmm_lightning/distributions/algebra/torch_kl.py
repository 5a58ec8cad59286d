"""`torch.distributions.kl_divergence` of mixtures and Gaussians, exact or not at all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    register_kl,
)

from gmm_lightning.distributions.algebra.divergences import as_mixtures
from gmm_lightning.distributions.algebra.gaussian_kl import kl_to_components
from gmm_lightning.distributions.density import MixtureDensity
from gmm_lightning.errors import NoClosedFormError


def _as_mixture(value: Distribution) -> MixtureDensity | None:
    """The mixture itself, a Gaussian of torch as one of one component, or None."""
    if isinstance(value, MixtureDensity):
        return value
    if isinstance(value, MultivariateNormal | LowRankMultivariateNormal):
        return _one_component(value.mean, value.scale_tril.unsqueeze(-3), "full")
    if isinstance(value, Normal):
        return _one_component(value.loc.unsqueeze(-1), value.scale[..., None, None], "diag")
    base = value.base_dist if isinstance(value, Independent) else None
    if isinstance(base, Normal) and len(value.event_shape) == 1:
        return _one_component(base.loc, base.scale.unsqueeze(-2), "diag")
    return None


def _one_component(mean: Tensor, scale: Tensor, covariance: str) -> MixtureDensity:
    means = mean.unsqueeze(-2)
    return MixtureDensity(torch.zeros_like(means[..., 0]), means, scale, covariance)


def _kl(p: Distribution, q: Distribution) -> Tensor:
    """`KL(p || q)` where both are Gaussians; there is no other closed form."""
    own, other = _as_mixture(p), _as_mixture(q)
    if own is not None and other is not None:
        own, other = as_mixtures(own, other)
        if own.num_components == other.num_components == 1:
            return kl_to_components(own.means[..., 0, :], own.scale_tril[..., 0, :, :], other)[
                ..., 0
            ]
    raise NoClosedFormError(
        "the Kullback-Leibler divergence of a mixture has no closed form; "
        "losses.kl_to_mixture(mean, scale, mixture) bounds or estimates that of a Gaussian, "
        "distributions.kl_divergence(p, q) estimates that of two mixtures from draws, and "
        "distributions.kl_variational(p, q) approximates it"
    )


register_kl(MixtureDensity, MixtureDensity)(_kl)
for _other in (
    MultivariateNormal,
    LowRankMultivariateNormal,
    Normal,
    Independent,
    MixtureSameFamily,
):
    register_kl(_other, MixtureDensity)(_kl)
    register_kl(MixtureDensity, _other)(_kl)

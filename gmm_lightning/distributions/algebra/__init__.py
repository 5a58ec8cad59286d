"""Mixtures from mixtures, and distances between them."""

from __future__ import annotations

from gmm_lightning.distributions.algebra import torch_kl as torch_kl
from gmm_lightning.distributions.algebra.divergences import (
    Estimate,
    cauchy_schwarz_divergence,
    entropy,
    entropy_bounds,
    kl_divergence,
    kl_variational,
    l2_distance,
    log_inner_product,
)
from gmm_lightning.distributions.algebra.gaussian_kl import kl_to_components, kl_to_mixture
from gmm_lightning.distributions.algebra.transforms import affine, convolve, product, prune, reduce
from gmm_lightning.distributions.algebra.unscented import (
    ComponentMoments,
    from_sigma_points,
    sigma_points,
    unscented,
)

__all__ = [
    "ComponentMoments",
    "Estimate",
    "affine",
    "cauchy_schwarz_divergence",
    "convolve",
    "entropy",
    "entropy_bounds",
    "from_sigma_points",
    "kl_divergence",
    "kl_to_components",
    "kl_to_mixture",
    "kl_variational",
    "l2_distance",
    "log_inner_product",
    "product",
    "prune",
    "reduce",
    "sigma_points",
    "unscented",
]

"""The distribution that layers and heads return, and functions of it, in five rooms.

- `density`: `MixtureOfGaussians.log_prob`, `sample`, `rsample`; gradients of expectations by
  `implicit_reparameterization`, `gumbel_softmax_sample`, `score_function`.
- `truncation`: the regions `Shell`, `Confidence`, `Ball`, `Box`, `HalfSpace`, `Where`, and
  `EuclideanRegion` and `MahalanobisRegion` to write another.
- `inference`: `marginal`, `condition`, `regress`; `impute`, `log_prob_observed` for missing
  entries; `cdf`, `quantile`, `interval`; `modes`, `grad_log_prob`; `confidence_radius`,
  `in_confidence_region`, `ellipses`, `squared_mahalanobis`.
- `algebra`: `affine`, `convolve`, `product`, `unscented`; `prune`, `reduce`, `moment_match`;
  `entropy`, `entropy_bounds`, `kl_divergence`, `kl_variational`, `l2_distance`,
  `cauchy_schwarz_divergence`, `log_inner_product`.
- `scoring`: `crps`, `energy_score`, `probability_integral_transform`.

Functions take a mixture, or a layer for its `distribution()`.
"""

from __future__ import annotations

from gmm_lightning.distributions.algebra import (
    Estimate,
    affine,
    cauchy_schwarz_divergence,
    convolve,
    entropy,
    entropy_bounds,
    from_sigma_points,
    kl_divergence,
    kl_variational,
    l2_distance,
    log_inner_product,
    product,
    prune,
    reduce,
    sigma_points,
    unscented,
)
from gmm_lightning.distributions.density import (
    DrawOptions,
    MixtureDensity,
    SampleShape,
    as_mixture,
    check_reparameterization,
    draw_reparameterized,
    draw_samples,
    gumbel_softmax_sample,
    implicit_reparameterization,
    moment_match,
    score_function,
)
from gmm_lightning.distributions.inference import (
    Ellipse,
    cdf,
    condition,
    confidence_radius,
    ellipses,
    grad_log_prob,
    impute,
    in_confidence_region,
    interval,
    log_prob_observed,
    marginal,
    modes,
    quantile,
    regress,
    require_positive_density,
    squared_mahalanobis,
)
from gmm_lightning.distributions.mixture import MixtureOfGaussians
from gmm_lightning.distributions.scoring import crps, energy_score, probability_integral_transform
from gmm_lightning.distributions.truncation import (
    Ball,
    Box,
    Confidence,
    EuclideanRegion,
    HalfSpace,
    MahalanobisRegion,
    Region,
    Shell,
    Where,
    chi_quantile,
)

__all__ = [
    "Ball",
    "Box",
    "Confidence",
    "DrawOptions",
    "Ellipse",
    "Estimate",
    "EuclideanRegion",
    "HalfSpace",
    "MahalanobisRegion",
    "MixtureDensity",
    "MixtureOfGaussians",
    "Region",
    "SampleShape",
    "Shell",
    "Where",
    "affine",
    "as_mixture",
    "cauchy_schwarz_divergence",
    "cdf",
    "check_reparameterization",
    "chi_quantile",
    "condition",
    "confidence_radius",
    "convolve",
    "crps",
    "draw_reparameterized",
    "draw_samples",
    "ellipses",
    "energy_score",
    "entropy",
    "entropy_bounds",
    "from_sigma_points",
    "grad_log_prob",
    "gumbel_softmax_sample",
    "implicit_reparameterization",
    "impute",
    "in_confidence_region",
    "interval",
    "kl_divergence",
    "kl_variational",
    "l2_distance",
    "log_inner_product",
    "log_prob_observed",
    "marginal",
    "modes",
    "moment_match",
    "probability_integral_transform",
    "product",
    "prune",
    "quantile",
    "reduce",
    "regress",
    "require_positive_density",
    "score_function",
    "sigma_points",
    "squared_mahalanobis",
    "unscented",
]

"""The distribution that a layer returns, and what can be computed with it.

- Cut: `marginal`, `condition`, `regress`, and for missing entries `impute`, `log_prob_of_present`.
- Draw: `MixtureOfGaussians.sample` and `rsample`, within `Shell`, `Confidence`, `Ball`, `Box`,
  `HalfSpace`, `Where`; `implicit`, `relaxed`, `score_function` for gradients.
- Compare: `entropy`, `entropy_bounds`, `kl_divergence`, `kl_variational`, `l2_distance`,
  `cauchy_schwarz_divergence`, `log_inner_product`.
- Find: `modes`, `grad_log_prob`, `confidence_radius`, `in_confidence_region`, `ellipses`,
  `squared_mahalanobis`.
- Judge a forecast: `cdf`, `quantile`, `interval`, `crps`, `probability_integral_transform`,
  `energy_score`.
- Transform: `affine`, `convolve`, `product`, `unscented`, `sigma_points`, `from_sigma_points`.
- Shrink: `prune`, `reduce`, `MixtureOfGaussians.moment_match`.

Functions take a mixture, or a layer for its `distribution()`.
"""

from __future__ import annotations

from gmm_lightning.distributions._chi import chi_quantile
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
    moment_match,
    product,
    prune,
    reduce,
    sigma_points,
    unscented,
)
from gmm_lightning.distributions.density import (
    LOG_2PI,
    DrawOptions,
    MixtureDensity,
    SampleShape,
    as_mixture,
    check_reparameterized,
    drawn,
    implicit,
    relaxed,
    reparameterized,
    score_function,
)
from gmm_lightning.distributions.inference import (
    Ellipse,
    cdf,
    condition,
    confidence_radius,
    ellipse_of,
    ellipses,
    grad_log_prob,
    impute,
    in_confidence_region,
    interval,
    log_prob_of_present,
    marginal,
    modes,
    quantile,
    regress,
    require_reached,
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
)

__all__ = [
    "LOG_2PI",
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
    "check_reparameterized",
    "chi_quantile",
    "condition",
    "confidence_radius",
    "convolve",
    "crps",
    "drawn",
    "ellipse_of",
    "ellipses",
    "energy_score",
    "entropy",
    "entropy_bounds",
    "from_sigma_points",
    "grad_log_prob",
    "implicit",
    "impute",
    "in_confidence_region",
    "interval",
    "kl_divergence",
    "kl_variational",
    "l2_distance",
    "log_inner_product",
    "log_prob_of_present",
    "marginal",
    "modes",
    "moment_match",
    "probability_integral_transform",
    "product",
    "prune",
    "quantile",
    "reduce",
    "regress",
    "relaxed",
    "reparameterized",
    "require_reached",
    "score_function",
    "sigma_points",
    "squared_mahalanobis",
    "unscented",
]

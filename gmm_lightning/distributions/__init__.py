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

from gmm_lightning.distributions.conditioning import condition, marginal, regress
from gmm_lightning.distributions.confidence import (
    Ellipse,
    confidence_radius,
    ellipses,
    in_confidence_region,
    squared_mahalanobis,
)
from gmm_lightning.distributions.density import LOG_2PI, MixtureDensity
from gmm_lightning.distributions.divergences import (
    Estimate,
    cauchy_schwarz_divergence,
    entropy,
    entropy_bounds,
    kl_divergence,
    kl_variational,
    l2_distance,
    log_inner_product,
)
from gmm_lightning.distributions.missing import impute, log_prob_of_present
from gmm_lightning.distributions.mixture import MixtureOfGaussians
from gmm_lightning.distributions.modes import grad_log_prob, modes
from gmm_lightning.distributions.regions import Ball, Box, HalfSpace, Where
from gmm_lightning.distributions.reparameterize import implicit, relaxed, score_function
from gmm_lightning.distributions.scores import (
    crps,
    energy_score,
    probability_integral_transform,
)
from gmm_lightning.distributions.shells import Confidence, Shell
from gmm_lightning.distributions.transforms import (
    affine,
    convolve,
    moment_match,
    product,
    prune,
    reduce,
)
from gmm_lightning.distributions.univariate import cdf, interval, quantile
from gmm_lightning.distributions.unscented import from_sigma_points, sigma_points, unscented

__all__ = [
    "LOG_2PI",
    "Ball",
    "Box",
    "Confidence",
    "Ellipse",
    "Estimate",
    "HalfSpace",
    "MixtureDensity",
    "MixtureOfGaussians",
    "Shell",
    "Where",
    "affine",
    "cauchy_schwarz_divergence",
    "cdf",
    "condition",
    "confidence_radius",
    "convolve",
    "crps",
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
    "score_function",
    "sigma_points",
    "squared_mahalanobis",
    "unscented",
]

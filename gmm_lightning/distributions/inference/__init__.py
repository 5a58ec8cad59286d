"""Inference: conditionals, missing entries, errors, quantiles, confidence regions, modes."""

from __future__ import annotations

from gmm_lightning.distributions.inference.conditioning import (
    Indices,
    Values,
    condition,
    marginal,
    regress,
    require_positive_density,
)
from gmm_lightning.distributions.inference.confidence import (
    Ellipse,
    confidence_radius,
    ellipses,
    in_confidence_region,
    squared_mahalanobis,
)
from gmm_lightning.distributions.inference.errors import (
    deconvolve,
    log_joint_noisy,
)
from gmm_lightning.distributions.inference.missing import (
    impute,
    log_joint_observed,
    log_prob_observed,
)
from gmm_lightning.distributions.inference.modes import grad_log_prob, modes
from gmm_lightning.distributions.inference.univariate import (
    cdf,
    interval,
    quantile,
    require_one_feature,
)

__all__ = [
    "Ellipse",
    "Indices",
    "Values",
    "cdf",
    "condition",
    "confidence_radius",
    "deconvolve",
    "ellipses",
    "grad_log_prob",
    "impute",
    "in_confidence_region",
    "interval",
    "log_joint_noisy",
    "log_joint_observed",
    "log_prob_observed",
    "marginal",
    "modes",
    "quantile",
    "regress",
    "require_one_feature",
    "require_positive_density",
    "squared_mahalanobis",
]

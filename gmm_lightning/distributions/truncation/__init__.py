"""Truncation: exact draws from a mixture given a region, `p(x | x in A)`.

A component is proposed with probability proportional to `pi_k M_k` and a row x from `q_k`, where
the *envelope* `M_k q_k(x) >= N(x | mu_k, Sigma_k)` holds within A. Keeping x with probability
`N(x | mu_k, Sigma_k) 1(x in A) / (M_k q_k(x))` leaves the density

    p(k, x | A)  =  pi_k N(x | mu_k, Sigma_k) 1(x in A) / sum_j pi_j P_j(A)

without any of the probabilities `P_j(A)` (`rejection`). Of several envelopes the one of least mass
`M_k` is used (`envelopes`, `box_envelopes`, `ball_envelopes`). Truncated normals and radii are
drawn from the hull of tangents to their log densities, at any distance (`truncated`, `hull`).

References:
    L. Devroye (1986), Non-Uniform Random Variate Generation, chapters II and VII.
"""

from __future__ import annotations

from gmm_lightning.distributions.truncation.ball import Ball
from gmm_lightning.distributions.truncation.envelopes import GaussianComponent
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion, Where
from gmm_lightning.distributions.truncation.polyhedra import Box, HalfSpace
from gmm_lightning.distributions.truncation.rejection import rejection_sample
from gmm_lightning.distributions.truncation.shells import (
    Confidence,
    MahalanobisRegion,
    Shell,
    chi_quantile,
)
from gmm_lightning.distributions.truncation.truncated import sample_truncated_chi

Region = EuclideanRegion | MahalanobisRegion

__all__ = [
    "Ball",
    "Box",
    "Confidence",
    "EuclideanRegion",
    "GaussianComponent",
    "HalfSpace",
    "MahalanobisRegion",
    "Region",
    "Shell",
    "Where",
    "chi_quantile",
    "rejection_sample",
    "sample_truncated_chi",
]

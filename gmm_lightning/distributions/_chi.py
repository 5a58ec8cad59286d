"""Quantiles of the chi distribution, the length of a standard normal row."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincc, gammainccinv, gammaincinv


def chi_quantile(mass: ArrayLike, num_features: int) -> NDArray[np.float64]:
    """The Mahalanobis radii inside which a Gaussian of D features has masses in [0, 1].

    `r^2` is the quantile of the chi-square distribution with D degrees of freedom.

    Example:
        >>> chi_quantile([0.5, 0.95], 2).round(4)
        array([1.1774, 2.4477])
    """
    p, half = np.asarray(mass, dtype=np.float64), 0.5 * num_features
    # From the nearer end: 1 - p is exact for p >= 1 / 2.
    square = np.where(p < 0.5, gammaincinv(half, p), gammainccinv(half, 1 - p))
    return np.sqrt(2 * square)


def chi_tail_quantile(radius: float, share: float, num_features: int) -> float:
    """The radius that leaves outside a share of the mass that another radius leaves outside."""
    half = 0.5 * num_features
    left = share * float(gammaincc(half, 0.5 * radius**2))
    if left > np.finfo(np.float64).tiny:
        return math.sqrt(2 * float(gammainccinv(half, left)))
    # So far out that the mass is no number, the density falls like exp(-r^2 / 2).
    return math.sqrt(radius**2 - 2 * math.log(share))

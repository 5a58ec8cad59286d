"""Draws of a posterior."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PosteriorDraws(NamedTuple):
    """Draws of the parameters of a mixture, S of each of C chains.

    Components are not aligned: the posterior is the same under each order of them.

    Shape:
        weights `(C, S, K)`, means `(C, S, K, D)`, covariance_matrix `(C, S, K, D, D)`;
        log_likelihood, log_posterior and diverging `(C, S)`.
    """

    weights: Tensor
    means: Tensor
    covariance_matrix: Tensor
    log_likelihood: Tensor
    diverging: Tensor | None = None
    log_posterior: Tensor | None = None

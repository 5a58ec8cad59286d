"""Moment matching: the Gaussian with the moments of a mixture."""

from __future__ import annotations

import torch

from gmm_lightning.distributions.density.mixture_density import M, as_mixture
from gmm_lightning.linalg import factor_of_rows, full_precision


def moment_match(mixture: M) -> M:
    """The Gaussian with the mixture's moments: see `MixtureOfGaussians.moment_match`."""
    mixture = as_mixture(mixture)
    gap = mixture.means - mixture.mean.unsqueeze(-2)
    # Rows of a square root: the covariance itself would lose half of the digits.
    rows = torch.cat([mixture.scale_tril, gap.unsqueeze(-1)], -1)
    # Not the root of the weights, which has no slope where one is 0.
    rows = (0.5 * mixture.log_weights).exp()[..., None, None] * rows
    with full_precision(rows.device):
        factor = factor_of_rows(rows.movedim(-3, -2).flatten(-2))
    logits = torch.zeros_like(mixture.mixture_logits[..., :1])
    return mixture.with_parameters(logits, mixture.mean.unsqueeze(-2), factor.unsqueeze(-3))

"""Losses and regularisers for mixtures in deep models, in nats, differentiable in all arguments.

They take a mixture of any family and batch shape, or a layer for its `distribution()`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._validation import is_tracing, require_choice, require_number
from gmm_lightning.distributions import (
    MixtureDensity,
    as_mixture,
    kl_to_components,
    kl_to_mixture,
)
from gmm_lightning.rows import check_finite

__all__ = [
    "count_nonfinite",
    "covariance_penalty",
    "dagmm_energy",
    "kl_to_components",
    "kl_to_mixture",
    "negative_log_likelihood",
    "responsibility_entropy",
]

_REDUCTIONS = ("mean", "sum", "none")


def negative_log_likelihood(
    mixture: MixtureDensity, x: Tensor, reduction: str = "mean", *, skip_nonfinite: bool = False
) -> Tensor:
    """Negative log-likelihood `-log p(x)`, as a loss.

    Args:
        mixture: p, such as the distribution that a head returns for a batch of rows.
        x: rows `(*S, *B, D)`.
        reduction: `mean` or `sum` over all rows, or `none`: `(*S, *B)`.
        skip_nonfinite: leave out rows with NaN or infinite entries, `count_nonfinite(x)` of them:
            a mean is over the other rows (0 without any), `none` has 0 there, without gradient.

    Raises:
        InvalidArgumentError: rows of another width, or an unknown reduction.
        InvalidDataError: rows that are not finite, by number, unless they are skipped or the call
            is being compiled or exported.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> x = torch.tensor([[0.0], [float("nan")]])
        >>> negative_log_likelihood(mixture, x, skip_nonfinite=True), count_nonfinite(x)
        (tensor(0.9189), tensor(1))
    """
    mixture = as_mixture(mixture)
    require_choice("reduction", reduction, _REDUCTIONS)
    mixture.check_rows(x)
    if skip_nonfinite:
        # Replaced before anything is computed, NaN stays out of the gradient.
        kept = torch.isfinite(x).all(-1)
        loss = -mixture.log_prob(torch.where(kept.unsqueeze(-1), x, 0.0))
        loss = torch.where(kept, loss, 0.0)
        num_rows = kept.expand_as(loss).sum().clamp(min=1)
    else:
        if not is_tracing():
            check_finite(x.detach().reshape(-1, x.shape[-1]))
        loss = -mixture.log_prob(x)
        num_rows = max(1, loss.numel())
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / num_rows


def count_nonfinite(x: Tensor) -> Tensor:
    """Number of rows `(*S, D)` with NaN or infinite entries, an integer tensor `()`."""
    return (~torch.isfinite(x).all(-1)).sum()


def dagmm_energy(mixture: MixtureDensity, z: Tensor, penalty: float = 0.05) -> Tensor:
    """Mean energy of latents z, and a penalty on small variances, `(*B)`.

        mean_n -log p(z_n) + penalty * sum_k sum_d 1 / Sigma_kdd

    Args:
        mixture: p.
        z: latents `(*S, *B, D)`; the mean is over S.
        penalty: weight relative to the energy: 0.005 and 0.1 in the loss of Zong et al.

    Raises:
        InvalidArgumentError: latents of another width, or a penalty that is negative.

    References:
        B. Zong et al. (2018), Deep autoencoding Gaussian mixture model for unsupervised anomaly
        detection, ICLR.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> dagmm_energy(mixture, torch.zeros(5, 2), penalty=0.5)
        tensor(2.8379)
    """
    mixture = as_mixture(mixture)
    penalty = require_number("penalty", penalty, least=0)
    energy = _mean_over_rows(-mixture.log_prob(z), mixture)
    return energy + penalty * covariance_penalty(mixture)


def covariance_penalty(mixture: MixtureDensity) -> Tensor:
    """Penalty `sum_k sum_d 1 / Sigma_kdd`, `(*B)`; a shared covariance counts K times."""
    mixture = as_mixture(mixture)
    return mixture.scale_tril.square().sum(-1).reciprocal().sum((-2, -1))


def responsibility_entropy(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Mean entropy of responsibilities, `mean_n -sum_k r_nk log r_nk`, `(*B)`, in [0, log K].

    Added to a loss it makes rows choose one component; subtracted, it keeps all of them in use.

    Args:
        mixture: gives the responsibilities r.
        x: rows `(*S, *B, D)`; the mean is over S.

    Raises:
        InvalidArgumentError: rows of another width.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-1.0], [1.0]]),
        ...                              torch.ones(2, 1, 1))
        >>> responsibility_entropy(mixture, torch.zeros(3, 1))
        tensor(0.6931)
    """
    mixture = as_mixture(mixture)
    log_r = mixture.log_responsibilities(x)
    # `0 log 0 = 0`.
    log_r = log_r.clamp(min=torch.finfo(log_r.dtype).min)
    return _mean_over_rows(-(log_r.exp() * log_r).sum(-1), mixture)


def _mean_over_rows(values: Tensor, mixture: MixtureDensity) -> Tensor:
    """The mean of values `(*S, *B)` over S."""
    return values.reshape(-1, *mixture.batch_shape).mean(0)

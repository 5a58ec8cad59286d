"""Losses and regularisers for mixtures in deep models, in nats, differentiable in all arguments.

They take a mixture of any family and batch shape, or a layer for its `distribution()`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice, require_number
from gmm_lightning.distributions import (
    MixtureDensity,
    as_mixture,
    kl_to_components,
    kl_to_mixture,
)
from gmm_lightning.rows import check_finite, keep_weights, row_weights, weighted_mean

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
    mixture: MixtureDensity,
    x: Tensor,
    reduction: str = "mean",
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    skip_nonfinite: bool = False,
) -> Tensor:
    """Negative log-likelihood `-log p(x)`, as a loss.

    What rows hold that do not count, NaN too, changes neither the value nor a gradient.

    Args:
        mixture: p, such as the distribution that a head returns for a batch of rows.
        x: rows `(*S, *B, D)`.
        reduction: `mean`, by the weights, or `sum` over all rows, or `none`: `(*S, *B)`, with
            weights as factors. A mean of no rows is 0.
        weight: of rows, at least 0, broadcasts to `(*S, *B)`; None: every row counts once.
        mask: booleans that broadcast to `(*S, *B)`, True for rows that count, such as those of
            sequences without their padding. The mixtures of the others must be finite;
            `DensityHead.loss` masks the features that they are made of, too.
        skip_nonfinite: leave out rows with NaN or infinite entries, `count_nonfinite(x)` of them.

    Raises:
        InvalidArgumentError: rows of another width, weights or a mask of another shape or kind,
            or an unknown reduction.
        InvalidDataError: rows that count and are not finite, or weights that are not finite and
            at least 0, by number, where values can be looked at.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> x = torch.tensor([[0.0], [float("nan")]])
        >>> negative_log_likelihood(mixture, x, skip_nonfinite=True), count_nonfinite(x)
        (tensor(0.9189), tensor(1))
    """
    mixture = as_mixture(mixture)
    require_choice("reduction", reduction, _REDUCTIONS)
    x = mixture.check_rows(x)
    # Of an expanded view: which rows there are is known before anything is computed.
    shape = torch.broadcast_tensors(x[..., 0], mixture.mixture_logits[..., 0])[0].shape
    weights = row_weights(shape, mixture.means, weight, mask)
    if skip_nonfinite:
        weights = keep_weights(weights, torch.isfinite(x).all(-1).expand(shape), mixture.means)
    counted = None if weights is None else (weights > 0).unsqueeze(-1)
    judged = x.detach() if counted is None else torch.where(counted, x.detach(), 0.0)
    check_finite(judged.reshape(-1, x.shape[-1]))
    if counted is not None:
        # Replaced before anything is computed, NaN stays out of the gradient.
        x = torch.where(counted, x, mixture.means[..., 0, :].detach().to(x))
    loss = -mixture.log_prob(x)
    if reduction == "mean":
        return weighted_mean(loss, weights)
    loss = loss if weights is None else weights * loss
    return loss.sum() if reduction == "sum" else loss


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

"""Mixtures of one feature: distribution function, quantiles, central intervals."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import log_ndtr, ndtri

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_numbers
from gmm_lightning.distributions.density import MixtureDensity, as_mixture, conditional_cdfs
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import LOG_2PI, accumulator_dtype

_Probability = float | Tensor


def cdf(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Distribution function `sum_k pi_k Phi((x - mu_k) / s_k)`, differentiable in all arguments.

    Args:
        mixture: of one feature.
        x: rows `(*S, *B, 1)`, which give `(*S, *B)`.

    Raises:
        InvalidArgumentError: several features, or rows of another shape.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-1.0], [1.0]]),
        ...                              torch.ones(2, 1, 1))
        >>> cdf(mixture, torch.tensor([[0.0], [1.0]]))
        tensor([0.5000, 0.7386])
    """
    mixture = as_mixture(mixture)
    require_one_feature(mixture, "cdf")
    return conditional_cdfs(mixture, x)[0].squeeze(-1).clamp(max=1.0)


def quantile(mixture: MixtureDensity, p: _Probability) -> Tensor:
    """Quantiles `x` with `F(x) = p`, accurate to rounding in the tails: -inf for 0, inf for 1.

    Newton's method on the logarithm of the nearer tail, safeguarded by bisection. First derivatives
    are those of the implicit function, `dx = (dp - dF) / f(x)`; there are no second ones.

    Args:
        mixture: of one feature.
        p: probabilities that broadcast with the batch to `(*S, *B)`; they give rows `(*S, *B, 1)`.
            Near 1 the precision of 1 - p is limited by their dtype.

    Raises:
        InvalidArgumentError: several features, values outside [0, 1], or another batch shape.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-1.0], [1.0]]),
        ...                              torch.ones(2, 1, 1))
        >>> quantile(mixture, torch.tensor([0.1, 0.9]))
        tensor([[-1.8495],
                [ 1.8495]])
    """
    mixture = as_mixture(mixture)
    require_one_feature(mixture, "quantile")
    p = _as_probabilities(mixture, p)
    upper = p > 0.5
    tail = torch.where(upper, 1 - p, p)
    inside = tail > 0
    log_tail = torch.where(inside, tail, 0.5).log()
    # The upper tail of the mixture is the lower tail of its mirror image.
    sign = torch.where(upper, -1.0, 1.0).to(p)
    means = sign.unsqueeze(-1) * mixture.means.squeeze(-1).to(p)
    log_weights, scale = mixture.log_weights.to(p), mixture.scale_tril[..., 0, 0].to(p)
    with torch.no_grad():
        root = _solve_quantile(log_weights, means, scale, log_tail)
    log_cdf, slope = _log_cdf_and_slope(log_weights, means, scale, root)
    gap = log_cdf - log_tail
    # Between components so far apart that the density is 0, the slope is 0.
    slope = torch.where(slope > 0, slope, math.inf).detach()
    x = sign * (root - (gap - gap.detach()) / slope)
    x = torch.where(inside, x, -math.inf * sign)
    return x.to(mixture.means.dtype).unsqueeze(-1)


def _solve_quantile(log_weights: Tensor, means: Tensor, scale: Tensor, log_p: Tensor) -> Tensor:
    """Roots `x` of `log F(x) = log p` in lower tails: `(*B, K)` each and `(*T)` give `(*T)`."""
    eps = torch.finfo(log_p.dtype).eps
    # The bracket: the components' quantiles, and a standard deviation more for their rounding.
    each = means + scale * ndtri(log_p.exp()).unsqueeze(-1)
    low, high = (each - scale).amin(-1), (each + scale).amax(-1)
    x = (log_weights.exp() * each).sum(-1).clamp(low, high)
    last = high - low
    done = torch.zeros_like(x, dtype=torch.bool)
    # Bisection alone takes fewer steps from the widest bracket of float64 to adjacent numbers.
    for _ in range(256):
        log_cdf, slope = _log_cdf_and_slope(log_weights, means, scale, x)
        gap = log_cdf - log_p
        low, high = torch.where(gap < 0, x, low), torch.where(gap < 0, high, x)
        step = -gap / slope
        following = x + step
        slow = step.abs() > 0.5 * last
        newton = (following >= low) & (following <= high) & ~slow
        # Met up to the rounding of log p; NaN has no root.
        met = (gap.abs() <= 4 * eps * (1 - log_p)) | gap.isnan()
        following = torch.where(newton, following, torch.where(met, x, 0.5 * (low + high)))
        last = (following - x).abs()
        x = torch.where(done, x, following)
        # Far from 0 the bracket ends at adjacent numbers.
        done = done | met | (last <= 2 * eps * x.abs())
        if value_of(done.all()):
            break
    return x


def _log_cdf_and_slope(
    log_weights: Tensor, means: Tensor, scale: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """`log F(x)` and its derivative `f(x) / F(x)`, `(*T)` each."""
    z = (x.unsqueeze(-1) - means) / scale
    log_cdf = (log_weights + log_ndtr(z)).logsumexp(-1)
    log_pdf = (log_weights - scale.log() - 0.5 * z.square() - 0.5 * LOG_2PI).logsumexp(-1)
    return log_cdf, (log_pdf - log_cdf).exp()


def interval(mixture: MixtureDensity, mass: _Probability) -> tuple[Tensor, Tensor]:
    """The central interval of a given mass: its ends leave `(1 - mass) / 2` on either side.

    Args:
        mixture: of one feature.
        mass: in [0, 1], as p of `quantile`.

    Raises:
        InvalidArgumentError: as for `quantile`.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> interval(mixture, 0.95)
        (tensor([-1.9600]), tensor([1.9600]))
    """
    mixture = as_mixture(mixture)
    require_one_feature(mixture, "interval")
    mass = _as_probabilities(mixture, mass)
    return quantile(mixture, 0.5 - 0.5 * mass), quantile(mixture, 0.5 + 0.5 * mass)


def require_one_feature(mixture: MixtureDensity, name: str) -> None:
    """Raise `InvalidArgumentError` unless the mixture has one feature."""
    if mixture.num_features != 1:
        raise InvalidArgumentError(
            f"{name} is of mixtures of one feature, got {mixture.num_features}; take one of them "
            "with mixture.marginal([i])"
        )


def _as_probabilities(mixture: MixtureDensity, p: _Probability) -> Tensor:
    """Probabilities that broadcast with the batch, `(*S, *B)`, in the precision of sums."""
    like = mixture.means.new_empty(0, dtype=accumulator_dtype(mixture.means.device))
    p = require_numbers("probabilities", p, like)
    if value_of(((p >= 0) & (p <= 1)).all()) is False:
        raise InvalidArgumentError(
            f"probabilities must be in [0, 1], got values from {p.min():g} to {p.max():g}"
        )
    try:
        shape = torch.broadcast_shapes(p.shape, mixture.batch_shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"probabilities of shape {tuple(p.shape)} do not fit the batch shape "
            f"{tuple(mixture.batch_shape)} of the mixture; for the same ones in all of them write "
            f"p[:, {', '.join(['None'] * len(mixture.batch_shape))}]"
        ) from None
    return p.expand(shape)

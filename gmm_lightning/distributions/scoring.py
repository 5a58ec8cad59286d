"""Scoring of forecasts: proper scores, and the probability integral transform.

The expectation of a proper score is minimal for the true distribution. The probability integral
transform of observations is uniform for calibrated forecasts.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.distributions.density import (
    MixtureDensity,
    as_mixture,
    conditional_cdfs,
    draw_reparameterized,
)
from gmm_lightning.distributions.inference import require_one_feature


def crps(mixture: MixtureDensity, y: Tensor) -> Tensor:
    """The continuous ranked probability score `int (F(x) - 1[x >= y])^2 dx`, in closed form.

        sum_k w_k A(y - mu_k, s_k) - sum_kl w_k w_l A(mu_k - mu_l, sqrt(s_k^2 + s_l^2)) / 2,
        A(m, s) = E|N(m, s^2)| = 2 s phi(m / s) + m (2 Phi(m / s) - 1)

    Lower is better, in the unit of y; for a point mass it is the absolute error. Differentiable,
    and so a loss.

    Args:
        mixture: of one feature.
        y: the observations, `(*S, *B, 1)`, which give `(*S, *B)`.

    Raises:
        InvalidArgumentError: several features, or rows of another shape.

    References:
        E. P. Grimit, T. Gneiting, V. J. Berrocal, N. A. Johnson (2006), The continuous ranked
        probability score for circular variables and its application to mesoscale forecast
        ensemble verification, Q. J. R. Meteorol. Soc. 132.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> crps(mixture, torch.tensor([[0.0], [3.0]]))
        tensor([0.2337, 2.4366])
    """
    mixture = as_mixture(mixture)
    require_one_feature(mixture, "crps")
    y = mixture.check_rows(y)
    means, scale = mixture.means.squeeze(-1), mixture.scale_tril[..., 0, 0]
    weights = mixture.weights
    miss = _mean_absolute(y.to(means.dtype) - means, scale)
    apart = means.unsqueeze(-1) - means.unsqueeze(-2)
    both = torch.hypot(scale.unsqueeze(-1), scale.unsqueeze(-2))
    pairs = weights.unsqueeze(-1) * weights.unsqueeze(-2)
    spread = (pairs * _mean_absolute(apart, both)).sum((-2, -1))
    return (weights * miss).sum(-1) - 0.5 * spread


def _mean_absolute(mean: Tensor, scale: Tensor) -> Tensor:
    """Mean absolute value `E|X|` of `N(m, s^2)`."""
    z = mean / scale
    peak = scale * math.sqrt(2 / math.pi) * (-0.5 * z.square()).exp()
    return peak + mean * torch.erf(z * math.sqrt(0.5))


def probability_integral_transform(mixture: MixtureDensity, y: Tensor) -> Tensor:
    """Values `u_d = P(Y_d <= y_d | y_1 .. y_d-1)`: independent and uniform for y of the mixture.

    For one feature it is the distribution function; for several the Rosenblatt transform, in the
    order of the features. Differentiable in y and the parameters.

    Args:
        mixture: the forecast.
        y: the observations, `(*S, *B, D)`, as the result.

    Raises:
        InvalidArgumentError: rows of another shape.

    References:
        M. Rosenblatt (1952), Remarks on a multivariate transformation, Ann. Math. Statist. 23.

    Example:
        >>> factor = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), factor)
        >>> probability_integral_transform(mixture, torch.tensor([[0.0, 0.0], [1.0, 0.6]]))
        tensor([[0.5000, 0.5000],
                [0.8413, 0.5000]])
    """
    return conditional_cdfs(as_mixture(mixture), y)[0].clamp(0.0, 1.0)


def energy_score(
    mixture: MixtureDensity,
    y: Tensor,
    num_draws: int = 100,
    generator: Generator | int | None = None,
) -> Tensor:
    """The energy score `E|X - y| - E|X - X'| / 2`, the multivariate CRPS, by Monte Carlo.

    Unbiased: each row has its own samples, of which each is compared with y and with the next.
    Lower is better. Gradients of the parameters flow through the samples, as from `rsample`.

    Args:
        mixture: the forecast, of any number of features.
        y: the observations, `(*S, *B, D)`, which give `(*S, *B)`.
        num_draws: samples for each row, at least 2.
        generator: source of randomness, or a seed.

    Raises:
        InvalidArgumentError: fewer than 2 samples, or rows of another shape.

    References:
        T. Gneiting, A. E. Raftery (2007), Strictly proper scoring rules, prediction, and
        estimation, JASA 102.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> near, far = energy_score(mixture, torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
        >>> bool(near < 0.6), bool(far > 7.0)
        (True, True)
    """
    mixture = as_mixture(mixture)
    num_draws = require_integer("num_draws", num_draws, least=2)
    y = mixture.check_rows(y)
    rows = torch.broadcast_shapes(y.shape[:-1], mixture.batch_shape)
    lead = len(rows) - len(mixture.batch_shape)
    own, shape = mixture.expand(rows[lead:]), (num_draws, *rows[:lead])
    x = draw_reparameterized(own, shape, generator=generator)
    miss = (x - y.to(x.dtype)).norm(dim=-1).mean(0)
    return miss - 0.5 * (x - x.roll(1, 0)).norm(dim=-1).mean(0)

"""Entropy and divergences: closed forms, bounds, and Monte Carlo estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.distributions.algebra.gaussian_kl import kl_to_components
from gmm_lightning.distributions.density import M, MixtureDensity, as_mixture, draw_samples
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import LOG_2PI, full_precision


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error, `(*B)` each."""

    value: Tensor
    standard_error: Tensor


def entropy(
    mixture: MixtureDensity, num_samples: int = 10_000, generator: Generator | int | None = None
) -> Estimate:
    """Differential entropy `-E[log p(x)]` in nats, by Monte Carlo.

    Args:
        mixture: p.
        num_samples: at least 2.
        generator: source of randomness, or a seed.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> estimate = entropy(mixture)
        >>> bool((estimate.value - 1.4189).abs() < 6 * estimate.standard_error)
        True
    """
    mixture = as_mixture(mixture)
    return _expectation(mixture, lambda x: -mixture.log_prob(x), num_samples, generator)


def entropy_bounds(mixture: MixtureDensity) -> tuple[Tensor, Tensor]:
    """A lower and an upper bound of the entropy, `(*B)` each, in closed form.

        lower = -sum_i pi_i log sum_j pi_j N(mu_i | mu_j, Sigma_i + Sigma_j)
        upper = sum_i pi_i (-log pi_i + log((2 pi e)^D |Sigma_i|) / 2)

    References:
        M. F. Huber et al. (2008), On entropy approximation for Gaussian mixture random vectors,
        IEEE Multisensor Fusion and Integration.
    """
    mixture = as_mixture(mixture)
    weights = mixture.weights
    lower = log_expected_likelihood(mixture, mixture) + mixture.log_weights.unsqueeze(-2)
    half = mixture.covariance.half_log_det(mixture.scale, mixture.num_features)
    each = half.expand_as(weights) + 0.5 * mixture.num_features * (LOG_2PI + 1)
    # `0 log 0 = 0`.
    surprise = torch.where(weights > 0, mixture.log_weights, 0.0)
    upper = (weights * (each - surprise)).sum(-1)
    return -(weights * lower.logsumexp(-1)).sum(-1), upper


def kl_divergence(
    p: MixtureDensity,
    q: MixtureDensity,
    num_samples: int = 10_000,
    generator: Generator | int | None = None,
) -> Estimate:
    """Divergence `KL(p || q) = E_p[log p(x) - log q(x)]` in nats, by Monte Carlo.

    Raises:
        InvalidArgumentError: another number of features, or fewer than 2 samples.
    """
    p, q = as_mixtures(p, q)
    p = p.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
    return _expectation(p, lambda x: p.log_prob(x) - q.log_prob(x), num_samples, generator)


def kl_variational(p: MixtureDensity, q: MixtureDensity) -> Tensor:
    """Variational approximation of `KL(p || q)`, `(*B)`, in closed form.

        sum_a pi_a log(sum_a' pi_a' exp(-KL(a || a')) / sum_b w_b exp(-KL(a || b)))

    References:
        J. R. Hershey, P. A. Olsen (2007), Approximating the Kullback Leibler divergence between
        Gaussian mixture models, ICASSP.
    """
    p, q = as_mixtures(p, q)
    own = (p.log_weights.unsqueeze(-2) - _component_kl(p, p)).logsumexp(-1)
    other = (q.log_weights.unsqueeze(-2) - _component_kl(p, q)).logsumexp(-1)
    return (p.weights * (own - other)).sum(-1)


def _component_kl(p: MixtureDensity, q: MixtureDensity) -> Tensor:
    """Divergences `KL(p_i || q_j)` between components, `(*B, K, L)`."""
    p = p.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
    each = kl_to_components(p.means.movedim(-2, 0), p.scale_tril.movedim(-3, 0), q)
    return each.movedim(0, -2)


def log_inner_product(p: MixtureDensity, q: MixtureDensity) -> Tensor:
    """Log inner product `log int p(x) q(x) dx`, `(*B)`, in closed form."""
    p, q = as_mixtures(p, q)
    both = p.log_weights.unsqueeze(-1) + q.log_weights.unsqueeze(-2)
    return (both + log_expected_likelihood(p, q)).flatten(-2).logsumexp(-1)


def l2_distance(p: MixtureDensity, q: MixtureDensity) -> Tensor:
    """L2 distance `sqrt(int (p(x) - q(x))^2 dx)`, `(*B)`, in closed form."""
    p, q = as_mixtures(p, q)
    logs = log_inner_product(p, p), log_inner_product(q, q), log_inner_product(p, q)
    logs = torch.broadcast_tensors(*logs)
    # Relative to the largest: densities in many dimensions overflow or underflow.
    top = torch.stack(logs).detach().amax(0)
    pp, qq, pq = ((log - top).exp() for log in logs)
    square = pp + qq - 2 * pq
    # The square root has no derivative at 0, where both densities are equal.
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0) * (0.5 * top).exp()


def cauchy_schwarz_divergence(p: MixtureDensity, q: MixtureDensity) -> Tensor:
    """Divergence `-log(<p, q> / sqrt(<p, p> <q, q>))`, `(*B)`: 0 only for equal densities.

    References:
        K. Kampa, E. Hasanbelliu, J. C. Principe (2011), Closed-form Cauchy-Schwarz PDF
        divergence for mixture of Gaussians, IJCNN.
    """
    p, q = as_mixtures(p, q)
    own = 0.5 * (log_inner_product(p, p) + log_inner_product(q, q))
    return own - log_inner_product(p, q)


def log_expected_likelihood(p: MixtureDensity, q: MixtureDensity) -> Tensor:
    """Expected likelihoods of components, `log N(mu_i | nu_j, Sigma_i + Omega_j)`, `(*B, K, L)`."""
    total = p.component_covariances.unsqueeze(-3) + q.component_covariances.unsqueeze(-4)
    gap = (p.means.unsqueeze(-2) - q.means.unsqueeze(-3)).unsqueeze(-1)
    with full_precision(gap.device):
        factor = torch.linalg.cholesky(total)
        white = torch.linalg.solve_triangular(factor, gap, upper=False)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum((-2, -1)) + log_det + p.num_features * LOG_2PI)


def _expectation(
    p: MixtureDensity,
    function: Callable[[Tensor], Tensor],
    num_samples: int,
    generator: Generator | int | None,
) -> Estimate:
    """`E_p[f(x)]` by Monte Carlo, for f of rows `(n, *B, D)`."""
    num_samples = require_integer("num_samples", num_samples, least=2)
    values = function(draw_samples(p, num_samples, generator=generator)[0])
    return Estimate(values.mean(0), values.std(0) / num_samples**0.5)


def as_mixtures(p: M, q: MixtureDensity) -> tuple[M, MixtureDensity]:
    """Both mixtures, checked to have equally many features and batches that broadcast."""
    p, q = as_mixture(p, "p"), as_mixture(q, "q")
    if p.num_features != q.num_features:
        raise InvalidArgumentError(
            f"expected mixtures of equally many features, got {p.num_features} and {q.num_features}"
        )
    try:
        torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"expected batches of mixtures that broadcast, got {tuple(p.batch_shape)} and "
            f"{tuple(q.batch_shape)}"
        ) from None
    return p, q

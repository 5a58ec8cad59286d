"""Divergence of a Gaussian from a mixture: closed forms, bounds, and estimates from samples."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import as_generator, require_integer, require_numbers
from gmm_lightning.distributions.density import MixtureDensity, as_mixture, standard_normals
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import (
    LOG_2PI,
    at_least_float32,
    full_precision,
    multiply_rows,
    unit_rows,
)


def kl_to_mixture(
    mean: Tensor,
    scale: Tensor,
    mixture: MixtureDensity,
    *,
    num_samples: int | None = None,
    responsibilities: Tensor | None = None,
    generator: Generator | int | None = None,
) -> Tensor:
    """A bound or an estimate of `KL(q || p)`, Gaussian q and mixture p, `(*S, *B)`.

    With `KL_k = KL(q || N_k)` and any responsibilities `gamma_k` of the components,

        KL(q || p) <= sum_k gamma_k (KL_k + log gamma_k - log pi_k)

    is the regulariser of VaDE, in closed form. Its minimum, `-log sum_k pi_k exp(-KL_k)`, is at
    `gamma_k ~ pi_k exp(-KL_k)`; for a single component it is exact. The estimate is unbiased,
    with gradients through the samples.

    Args:
        mean: of q, `(*S, *B, D)`.
        scale: of q: standard deviations `(*S, *B, D)`, positive, or for a full covariance its lower
            Cholesky factor `(*S, *B, D, D)`, as `scale_tril` of a `MultivariateNormal`.
        mixture: p.
        num_samples: None: the bound; a number of samples, in antithetic pairs: the estimate.
        responsibilities: of the bound, `(*S, *B, K)`, such as `p.responsibilities(z)` at a sample
            z of q as in VaDE; None: those of the smallest bound.
        generator: source of randomness, or a seed.

    Raises:
        InvalidArgumentError: shapes that do not fit, a scale that is not positive or a factor that
            is not lower triangular, `num_samples` below 1, responsibilities that do not sum to 1,
            or are given with `num_samples`.

    References:
        Z. Jiang et al. (2017), Variational deep embedding: an unsupervised and generative
        approach to clustering, IJCAI.
        J. R. Hershey, P. A. Olsen (2007), Approximating the Kullback Leibler divergence between
        Gaussian mixture models, ICASSP.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-1.0], [1.0]]),
        ...                              torch.ones(2, 1, 1))
        >>> kl_to_mixture(torch.tensor([[1.0], [0.0]]), torch.ones(2, 1), mixture)
        tensor([0.5662, 0.5000])
    """
    mixture = as_mixture(mixture)
    if num_samples is not None:
        if responsibilities is not None:
            raise InvalidArgumentError(
                "responsibilities belong to the bound: leave them out with num_samples"
            )
        return _kl_from_samples(mean, scale, mixture, num_samples, generator)
    each = kl_to_components(mean, scale, mixture)
    if responsibilities is None:
        return -(mixture.log_weights - each).logsumexp(-1)
    gamma = require_numbers("responsibilities", responsibilities, each)
    if gamma.shape != each.shape:
        raise InvalidArgumentError(
            f"expected responsibilities of shape {tuple(each.shape)}, got {tuple(gamma.shape)}"
        )
    total = gamma.detach().sum(-1)
    if value_of(((gamma >= 0).all(-1) & ((total - 1).abs() < 1e-3)).all()) is False:
        raise InvalidArgumentError("responsibilities must be >= 0 with sum 1 for every row")
    # `0 log 0 = 0`.
    log_gamma = torch.where(gamma > 0, gamma, 1.0).log()
    surprise = torch.where(gamma > 0, mixture.log_weights, 0.0)
    return (gamma * (each + log_gamma - surprise)).sum(-1)


def kl_to_components(mean: Tensor, scale: Tensor, mixture: MixtureDensity) -> Tensor:
    """`KL(q || N_k)` for every component k, `(*S, *B, K)`, with arguments as for `kl_to_mixture`.

    Raises:
        InvalidArgumentError: shapes that do not fit, or a scale that is not positive.
    """
    mixture = as_mixture(mixture)
    mean, scale = _as_posterior(mean, scale, mixture)
    family, d = mixture.covariance, mixture.num_features
    with full_precision(mean.device):
        white = mixture.whiten(mean)
        if _is_full(mean, scale):
            # Columns of L^-1 F: their squares add up to the trace of Sigma_k^-1 F F'.
            columns = scale.mT.movedim(-2, 0).unsqueeze(-2)
            trace = family.whiten(mixture.scale, columns).square().sum(-1).sum(0)
        else:
            # Columns of L^-1: their squares add up to the diagonal of the precision.
            axes = unit_rows(d, len(mixture.batch_shape), mean)
            precision = family.whiten(mixture.scale, axes).square().sum(-1).movedim(0, -1)
            trace = (scale.square().unsqueeze(-2) * precision).sum(-1)
        square = trace + white.square().sum(-1) - d
        own = _deviations(mean, scale).log().sum(-1, keepdim=True)
        return 0.5 * square + family.half_log_det(mixture.scale, d) - own


def _kl_from_samples(
    mean: Tensor,
    scale: Tensor,
    mixture: MixtureDensity,
    num_samples: int,
    generator: Generator | int | None,
) -> Tensor:
    """Estimate `-H(q) - E_q[log p]`, `(*S, *B)`, from reparameterised antithetic samples."""
    num_samples = require_integer("num_samples", num_samples, least=1)
    mean, scale = _as_posterior(mean, scale, mixture)
    half = standard_normals(
        mean, ((num_samples + 1) // 2, *mean.shape), as_generator(generator, mean.device)
    )
    noise = torch.cat([half, -half])[:num_samples]
    with full_precision(mean.device):
        step = multiply_rows(scale, noise) if _is_full(mean, scale) else scale * noise
    cross = mixture.log_prob(mean + step).mean(0)
    own = _deviations(mean, scale).log().sum(-1)
    return -own - 0.5 * mixture.num_features * (LOG_2PI + 1) - cross


def _is_full(mean: Tensor, scale: Tensor) -> bool:
    """Whether a scale holds Cholesky factors, not standard deviations."""
    return scale.dim() > mean.dim()


def _deviations(mean: Tensor, scale: Tensor) -> Tensor:
    """Standard deviations of each feature given those before it, `(*S, *B, D)`."""
    return scale.diagonal(dim1=-2, dim2=-1) if _is_full(mean, scale) else scale


def _as_posterior(mean: Tensor, scale: Tensor, mixture: MixtureDensity) -> tuple[Tensor, Tensor]:
    """Mean and scale of every row, checked, in the mixture's dtype."""
    mean = mixture.check_rows(mean)
    factors = (*mean.shape, mixture.num_features)
    if not (isinstance(scale, Tensor) and scale.shape == factors):
        scale = mixture.check_rows(scale)
        if mean.shape != scale.shape:
            raise InvalidArgumentError(
                f"the posterior's mean and scale must have the same shape, got {tuple(mean.shape)} "
                f"and {tuple(scale.shape)}; a full covariance has factors of shape {factors}"
            )
    if value_of((_deviations(mean, scale) > 0).all()) is False:
        raise InvalidArgumentError("the posterior's scale must be > 0 everywhere")
    if _is_full(mean, scale) and value_of(scale.triu(1).any()):
        raise InvalidArgumentError(
            "the posterior's scale must be standard deviations or lower Cholesky factors; for a "
            "covariance write torch.linalg.cholesky(covariance)"
        )
    mean, scale = (at_least_float32(part).to(mixture.means) for part in (mean, scale))
    # `torch.broadcast_shapes` imports sympy, for most of a second.
    shape = torch.broadcast_tensors(mean[..., 0], mixture.mixture_logits[..., 0])[0].shape
    return mean.expand(*shape, -1), scale.expand(*shape, *scale.shape[mean.dim() - 1 :])

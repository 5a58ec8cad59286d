"""Mixtures from mixtures: affine maps, convolution, products, pruning and merging."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_integer, require_number, require_numbers
from gmm_lightning.distributions.algebra.divergences import as_mixtures, log_expected_likelihood
from gmm_lightning.distributions.density import M, MixtureDensity, as_mixture, require_single
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, factor_of_rows, full_precision, symmetrize


def affine(mixture: M, matrix: Tensor, offset: Tensor | float = 0.0) -> M:
    """The distribution of `A x + b`: means `A mu_k + b`, covariances `A Sigma_k A'`.

    Args:
        mixture: of x, `(*B, D)`.
        matrix: A, `(*B, M, D)` of full row rank, M at most D.
        offset: b, `(*B, M)`.

    Raises:
        InvalidArgumentError: a shape that does not fit, or linearly dependent rows of A.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> affine(mixture, torch.tensor([[1.0, 1.0]])).component_covariances
        tensor([[[2.0000]]])
    """
    mixture = as_mixture(mixture)
    matrix = require_numbers("a matrix", matrix, mixture.means)
    b = require_numbers("an offset", offset, mixture.means)
    d, batch = mixture.num_features, tuple(mixture.batch_shape)
    if matrix.dim() < 2 or matrix.shape[-1] != d or not 1 <= matrix.shape[-2] <= d:
        raise InvalidArgumentError(
            f"expected a matrix of shape (M, {d}) with M <= {d}, got shape {tuple(matrix.shape)}"
        )
    try:
        spread = matrix.expand(*batch, *matrix.shape[-2:]).unsqueeze(-3)
        b = b.expand(*batch, matrix.shape[-2])
    except RuntimeError:
        raise InvalidArgumentError(
            f"expected a matrix (*B, M, {d}) and an offset (*B, M) for mixtures of batch shape "
            f"{batch}, got shapes {tuple(matrix.shape)} and {tuple(b.shape)}"
        ) from None
    if value_of(b.detach().isfinite().all()) is False:
        raise InvalidArgumentError("the offset of an affine map must be finite, and is not")
    with full_precision(matrix.device):
        factor = factor_of_rows(spread @ mixture.scale_tril)
        means = (spread @ mixture.means.unsqueeze(-1)).squeeze(-1)
    # Relative to the length of each row, as units are arbitrary.
    length = torch.linalg.vector_norm(factor.detach(), dim=-1)
    pivots = factor.detach().diagonal(dim1=-2, dim2=-1)
    if value_of((pivots > d * torch.finfo(factor.dtype).eps * length).all()) is False:
        raise InvalidArgumentError(
            "the rows of the matrix depend on each other, so A x has no density"
        )
    return mixture.with_parameters(mixture.mixture_logits, means + b.unsqueeze(-2), factor)


def convolve(p: M, q: MixtureDensity) -> M:
    """The distribution of `x + y` for independent x of p and y of q: K L components.

    Raises:
        InvalidArgumentError: another number of features.
    """
    p, q = as_mixtures(p, q)
    a, b = torch.broadcast_tensors(p.scale_tril.unsqueeze(-3), q.scale_tril.unsqueeze(-4))
    means = p.means.unsqueeze(-2) + q.means.unsqueeze(-3)
    return _of_pairs(p, q, 0.0, means, factor_of_rows(torch.cat([a, b], -1)))


def product(p: M, q: MixtureDensity) -> M:
    """The normalised product `p(x) q(x)`, the fusion of independent beliefs: K L components.

    `Sigma = (A^-1 + B^-1)^-1`, and weights are multiplied by the components' expected likelihoods.
    The logarithm of the normalising constant is `log_inner_product(p, q)`.

    Raises:
        InvalidArgumentError: another number of features.

    References:
        K. B. Petersen, M. S. Pedersen (2012), The Matrix Cookbook, section 8.1.8.
    """
    p, q = as_mixtures(p, q)
    dtype = torch.promote_types(p.means.dtype, q.means.dtype)
    a, b = p.scale_tril.to(dtype).unsqueeze(-3), q.scale_tril.to(dtype).unsqueeze(-4)
    a, b = torch.broadcast_tensors(a, b)
    identity = torch.eye(p.num_features, dtype=a.dtype, device=a.device)
    with full_precision(a.device):
        # Sigma = A (I + M' M)^-1 A' with A the factor of p and M = B^-1 A.
        ratio = torch.linalg.solve_triangular(b, a, upper=False)
        inner = torch.linalg.cholesky(identity + symmetrize(ratio.mT @ ratio))
        factor = factor_of_rows(torch.linalg.solve_triangular(inner, a.mT, upper=False).mT)
        gap = (q.means.unsqueeze(-3) - p.means.unsqueeze(-2)).to(dtype).unsqueeze(-1)
        white = torch.linalg.solve_triangular(b, gap, upper=False)
        step = a @ torch.cholesky_solve(ratio.mT @ white, inner)
    means = p.means.unsqueeze(-2) + step.squeeze(-1)
    return _of_pairs(p, q, log_expected_likelihood(p, q), means, factor)


def _of_pairs(
    p: M, q: MixtureDensity, log_share: Tensor | float, means: Tensor, factor: Tensor
) -> M:
    """A mixture of type p with a component `(*B, K, L)` for each pair."""
    logits = p.log_weights.unsqueeze(-1) + q.log_weights.unsqueeze(-2) + log_share
    return p.with_parameters(logits.flatten(-2), means.flatten(-3, -2), factor.flatten(-4, -3))


def prune(mixture: M, min_weight: float) -> M:
    """The mixture without components of low weight; the other weights are renormalised.

    Args:
        mixture: a single mixture, without a batch.
        min_weight: the lowest weight that is kept; the heaviest component is always kept.

    Raises:
        InvalidArgumentError: a batch of mixtures, or a weight outside [0, 1].
    """
    mixture = as_mixture(mixture)
    require_single(mixture)
    min_weight = require_number("min_weight", min_weight, least=0, most=1)
    weights = mixture.weights.detach()
    kept = weights >= min(min_weight, float(weights.max()))
    return mixture.with_parameters(
        mixture.mixture_logits[kept], mixture.means[kept], mixture.scale_tril[kept]
    )


def reduce(mixture: M, num_components: int) -> M:
    """A mixture of fewer components, by merging pairs, with the same mean and covariance.

    Each step merges the pair with the least upper bound of the Kullback-Leibler divergence,
    `((w_i + w_j) log|S_ij| - w_i log|S_i| - w_j log|S_j|) / 2`.

    Args:
        mixture: a single mixture, without a batch.
        num_components: number of components of the result, at least 1.

    Raises:
        InvalidArgumentError: a batch of mixtures, or fewer than one component.

    References:
        A. R. Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE
        Transactions on Aerospace and Electronic Systems 43.
    """
    mixture = as_mixture(mixture)
    require_single(mixture)
    num_components = require_integer("num_components", num_components, least=1)
    # The contribution of means far apart needs more digits than the covariances.
    wide = accumulator_dtype(mixture.means.device)
    w, factor = mixture.weights.to(wide), mixture.scale_tril.to(wide)
    # The mean of two components of weight 0 is undefined.
    kept = w > 0
    w, m, c = w[kept], mixture.means.to(wide)[kept], (factor @ factor.mT)[kept]
    while len(w) > num_components:
        i, j = torch.triu_indices(len(w), len(w), 1, device=w.device)
        merged = total, _, spread = _merge_moments(w, m, c, i, j)
        cost = total * torch.logdet(spread) - w[i] * torch.logdet(c[i]) - w[j] * torch.logdet(c[j])
        best = int(cost.detach().argmin())
        left = torch.ones_like(w, dtype=torch.bool)
        left[i[best]] = left[j[best]] = False
        pairs = zip((w, m, c), merged, strict=True)
        w, m, c = (torch.cat([old[left], new[best : best + 1]]) for old, new in pairs)
    factor = torch.linalg.cholesky(symmetrize(c))
    logits, means, factor = (v.to(mixture.means) for v in (w.log(), m, factor))
    return mixture.with_parameters(logits, means, factor)


def _merge_moments(
    w: Tensor, m: Tensor, c: Tensor, i: Tensor, j: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, mean and covariance of merged pairs of components."""
    total = w[i] + w[j]
    share = (w[i] / total).unsqueeze(-1)
    mean = share * m[i] + (1 - share) * m[j]
    gap = m[i] - m[j]
    between = (share * (1 - share)).unsqueeze(-1) * gap.unsqueeze(-1) * gap.unsqueeze(-2)
    share = share.unsqueeze(-1)
    return total, mean, share * c[i] + (1 - share) * c[j] + between

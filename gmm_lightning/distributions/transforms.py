"""Mixtures from mixtures: maps, sums, products, and fewer components."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer, require_number, require_numbers
from gmm_lightning.distributions.density import M, MixtureDensity, takes_layers
from gmm_lightning.distributions.divergences import log_overlaps, require_alike
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, factor_of_rows, full_precision, symmetrize


@takes_layers
def affine(mixture: M, matrix: Tensor, offset: Tensor | float = 0.0) -> M:
    """The law of `A x + b`: means `A mu_k + b`, covariances `A Sigma_k A'`.

    Args:
        mixture: of x, `(*B, D)`.
        matrix: A, `(*B, M, D)` of full row rank, M at most D.
        offset: b, `(*B, M)`.

    Raises:
        InvalidArgumentError: a shape that does not fit, or rows of A that depend on each other.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> affine(mixture, torch.tensor([[1.0, 1.0]])).component_covariances
        tensor([[[2.0000]]])
    """
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
    if not bool(b.detach().isfinite().all()):
        raise InvalidArgumentError("the offset of an affine map must be finite, and is not")
    with full_precision(matrix.device):
        factor = factor_of_rows(spread @ mixture.scale_tril)
        means = (spread @ mixture.means.unsqueeze(-1)).squeeze(-1)
    # Each row against its own length: units are arbitrary.
    length = torch.linalg.vector_norm(factor.detach(), dim=-1)
    pivots = factor.detach().diagonal(dim1=-2, dim2=-1)
    if not bool((pivots > d * torch.finfo(factor.dtype).eps * length).all()):
        raise InvalidArgumentError(
            "the rows of the matrix depend on each other, so A x has no density"
        )
    return mixture.new(mixture.mixture_logits, means + b.unsqueeze(-2), factor)


@takes_layers
def convolve(p: M, q: MixtureDensity) -> M:
    """The law of `x + y` for independent x of p and y of q: K L components.

    Raises:
        InvalidArgumentError: another number of features.
    """
    require_alike(p, q)
    logits = p.log_weights.unsqueeze(-1) + q.log_weights.unsqueeze(-2)
    means = p.means.unsqueeze(-2) + q.means.unsqueeze(-3)
    a, b = torch.broadcast_tensors(p.scale_tril.unsqueeze(-3), q.scale_tril.unsqueeze(-4))
    factor = factor_of_rows(torch.cat([a, b], -1))
    return p.new(logits.flatten(-2), means.flatten(-3, -2), factor.flatten(-4, -3))


@takes_layers
def product(p: M, q: MixtureDensity) -> M:
    """The density in proportion to `p(x) q(x)`: fusion of independent beliefs, K L components.

    `Sigma = (A^-1 + B^-1)^-1 = A - A (A + B)^-1 A`, of which the factor comes from whitened
    precisions; the weights are multiplied by the overlaps of the components. How much mass the
    product has is `log_inner_product(p, q)`.

    Raises:
        InvalidArgumentError: another number of features.

    References:
        K. B. Petersen, M. S. Pedersen (2012), The Matrix Cookbook, section 8.1.8.
    """
    require_alike(p, q)
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
    logits = p.log_weights.unsqueeze(-1) + q.log_weights.unsqueeze(-2) + log_overlaps(p, q)
    return p.new(logits.flatten(-2), means.flatten(-3, -2), factor.flatten(-4, -3))


@takes_layers
def prune(mixture: M, min_weight: float) -> M:
    """Without the components whose weight is below a bound; the others keep their proportions.

    Args:
        mixture: a single mixture, of no batch.
        min_weight: the bound; the heaviest component always stays.

    Raises:
        InvalidArgumentError: a batch of mixtures, or a bound outside [0, 1].
    """
    require_single(mixture)
    min_weight = require_number("min_weight", min_weight, least=0, most=1)
    weights = mixture.weights.detach()
    kept = (weights >= min(min_weight, float(weights.max()))).nonzero().squeeze(-1)
    return mixture.new(mixture.mixture_logits[kept], mixture.means[kept], mixture.scale_tril[kept])


@takes_layers
def reduce(mixture: M, num_components: int) -> M:
    """Fewer components by merging pairs, which keeps mean and covariance of the whole.

    Each time the pair is merged whose merger costs least by an upper bound of the Kullback-
    Leibler divergence, `((w_i + w_j) log|S_ij| - w_i log|S_i| - w_j log|S_j|) / 2`.

    Args:
        mixture: a single mixture, of no batch.
        num_components: how many are left, at least 1.

    Raises:
        InvalidArgumentError: a batch of mixtures, or fewer than one component.

    References:
        A. R. Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE
        Transactions on Aerospace and Electronic Systems 43.
    """
    require_single(mixture)
    num_components = require_integer("num_components", num_components, least=1)
    # Means far apart: what they add to a covariance takes more digits than the covariances.
    wide = accumulator_dtype(mixture.means.device)
    w, m = mixture.weights.to(wide), mixture.means.to(wide)
    factor = mixture.scale_tril.to(wide)
    c = factor @ factor.mT
    # Two components without weight would have no mean together.
    there = w > 0
    w, m, c = w[there], m[there], c[there]
    while len(w) > num_components:
        i, j = torch.triu_indices(len(w), len(w), 1, device=w.device)
        total, mean, spread = merged(w, m, c, i, j)
        cost = total * torch.logdet(spread) - w[i] * torch.logdet(c[i]) - w[j] * torch.logdet(c[j])
        best = int(cost.detach().argmin())
        a, b = int(i[best]), int(j[best])
        left = [n for n in range(len(w)) if n not in (a, b)]
        w = torch.cat([w[left], total[best : best + 1]])
        m = torch.cat([m[left], mean[best : best + 1]])
        c = torch.cat([c[left], spread[best : best + 1]])
    factor = torch.linalg.cholesky(symmetrize(c))
    return mixture.new(w.log().to(mixture.means), m.to(mixture.means), factor.to(mixture.means))


def moment_match(mixture: M) -> M:
    """One Gaussian instead of the whole: see `MixtureOfGaussians.moment_match`."""
    gap = mixture.means - mixture.mean.unsqueeze(-2)
    # Rows of a square root: the covariance itself would lose half of the digits.
    rows = torch.cat([mixture.scale_tril, gap.unsqueeze(-1)], -1)
    # Not the root of the weights, which has no slope where one is 0.
    rows = (0.5 * mixture.log_weights).exp()[..., None, None] * rows
    with full_precision(rows.device):
        factor = factor_of_rows(rows.movedim(-3, -2).flatten(-2))
    logits = torch.zeros_like(mixture.mixture_logits[..., :1])
    return mixture.new(logits, mixture.mean.unsqueeze(-2), factor.unsqueeze(-3))


def merged(w: Tensor, m: Tensor, c: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, mean and covariance of pairs of components taken together."""
    total = w[i] + w[j]
    share = (w[i] / total).unsqueeze(-1)
    mean = share * m[i] + (1 - share) * m[j]
    gap = m[i] - m[j]
    between = (share * (1 - share)).unsqueeze(-1) * gap.unsqueeze(-1) * gap.unsqueeze(-2)
    share = share.unsqueeze(-1)
    return total, mean, share * c[i] + (1 - share) * c[j] + between


def require_single(mixture: MixtureDensity) -> None:
    """Refuse a batch: its mixtures would be left with different numbers of components.

    Raises:
        InvalidArgumentError: saying what came.
    """
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"expected a single mixture, got a batch of shape {tuple(mixture.batch_shape)}"
        )

"""Mixture reduction: pruning and merging."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.distributions.density import M, MixtureDensity, as_mixture
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, symmetrize


def prune(mixture: M, min_weight: float) -> M:
    """The mixture without components of low weight; the other weights are renormalised.

    Args:
        mixture: a single mixture, of no batch.
        min_weight: the lowest weight that stays; the heaviest component always does.

    Raises:
        InvalidArgumentError: a batch of mixtures, or a weight outside [0, 1].
    """
    mixture = as_mixture(mixture)
    _require_single(mixture)
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
        mixture: a single mixture, of no batch.
        num_components: number of components of the result, at least 1.

    Raises:
        InvalidArgumentError: a batch of mixtures, or fewer than one component.

    References:
        A. R. Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE
        Transactions on Aerospace and Electronic Systems 43.
    """
    mixture = as_mixture(mixture)
    _require_single(mixture)
    num_components = require_integer("num_components", num_components, least=1)
    # The contribution of means far apart takes more digits than the covariances.
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


def _require_single(mixture: MixtureDensity) -> None:
    """Raise for a batch: its mixtures would end with different numbers of components."""
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"expected a single mixture, got a batch of shape {tuple(mixture.batch_shape)}"
        )

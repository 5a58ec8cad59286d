"""Mixtures of fewer components."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.distributions.density import M, MixtureDensity, as_mixture
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, symmetrize


def prune(mixture: M, min_weight: float) -> M:
    """Without the components whose weight is below a bound; the others keep their proportions.

    Args:
        mixture: a single mixture, of no batch.
        min_weight: the bound; the heaviest component always stays.

    Raises:
        InvalidArgumentError: a batch of mixtures, or a bound outside [0, 1].
    """
    mixture = as_mixture(mixture)
    require_single(mixture)
    min_weight = require_number("min_weight", min_weight, least=0, most=1)
    weights = mixture.weights.detach()
    kept = (weights >= min(min_weight, float(weights.max()))).nonzero().squeeze(-1)
    return mixture.new(mixture.mixture_logits[kept], mixture.means[kept], mixture.scale_tril[kept])


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
    mixture = as_mixture(mixture)
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
    mixture = as_mixture(mixture)
    return mixture.moment_match()


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

"""One order of the components for all draws: label switching undone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gmm_lightning.bayes.draws import PosteriorDraws

_MAX_ROUNDS = 10
# An exchange of two components is as good if it costs no more than this, in nats per row, ...
_AMBIGUOUS = 0.01
# ... and matters if they hold more than this together.
_LEAST_WEIGHT = 0.01


class Aligned(NamedTuple):
    """Draws in one order, and how well that worked.

    Attributes:
        draws: with their components reordered.
        disagreeing: share of the draws in which two components could be exchanged as well.
    """

    draws: PosteriorDraws
    disagreeing: float


@torch.no_grad()
def align(draws: PosteriorDraws) -> Aligned:
    """Draws whose components are in the order that fits the mean of all draws best.

    The reference begins as the draw of the highest log-likelihood, and becomes the mean of the
    draws until the orders stay. The cost of giving component j the place k is the symmetric
    Kullback-Leibler divergence between the two Gaussians, each times its weight, and the orders
    are assignments of least cost.

    References:
        M. Stephens (2000), Dealing with label switching in mixture models, JRSS B 62.
        P. Papastamoulis (2016), label.switching: an R package, Journal of Statistical Software 69.

    Example:
        >>> means = torch.tensor([[[[0.0], [9.0]], [[9.1], [0.1]]]])
        >>> eye, half = torch.ones(1, 2, 2, 1, 1), torch.full((1, 2, 2), 0.5)
        >>> align(PosteriorDraws(half, means, eye, torch.tensor([[1.0, 0.0]]))).draws.means[0, 1].T
        tensor([[0.1000, 9.1000]])
    """
    best = int(draws.log_likelihood.argmax())
    chain, place = divmod(best, draws.num_draws)
    reference = [v[chain, place] for v in (draws.weights, draws.means, draws.covariance_matrix)]
    order = torch.empty(0)
    for _ in range(_MAX_ROUNDS):
        cost = _costs(draws, *reference)
        found = _orders(cost)
        if order.shape == found.shape and torch.equal(order, found):
            break
        order = found
        own = draws.reorder(order)
        reference = [v.mean((0, 1)) for v in (own.weights, own.means, own.covariance_matrix)]
    aligned = draws.reorder(order)
    return Aligned(aligned, _disagreeing(_costs(draws, *reference), order, reference[0]))


def _costs(draws: PosteriorDraws, weights: Tensor, means: Tensor, covariance: Tensor) -> Tensor:
    """Symmetric divergences `(C, S, K, K)` of component j of a draw from k of a reference."""
    d = means.shape[-1]
    own = torch.linalg.inv(draws.covariance_matrix)
    theirs = torch.linalg.inv(covariance)
    gap = draws.means.unsqueeze(3) - means
    far = torch.einsum("csjkd,csjde,csjke->csjk", gap, own, gap)
    far = far + torch.einsum("csjkd,kde,csjke->csjk", gap, theirs, gap)
    spread = torch.einsum("csjde,ked->csjk", own, covariance)
    spread = spread + torch.einsum("csjde,ked->csjk", draws.covariance_matrix, theirs)
    divergence = 0.5 * (far + spread) - d
    shares = 0.5 * (draws.weights.unsqueeze(-1) + weights)
    return shares * divergence


def _orders(cost: Tensor) -> Tensor:
    """Orders `(C, S, K)`: which component of a draw takes each place."""
    flat = cost.flatten(0, 1).cpu().numpy()
    # Rows are components; the answer is by place.
    found = [torch.as_tensor(linear_sum_assignment(one.T)[1]) for one in flat]
    return torch.stack(found).reshape(cost.shape[:-1]).to(cost.device)


def _disagreeing(cost: Tensor, order: Tensor, weights: Tensor) -> float:
    """Share of the draws in which an exchange of two components costs hardly more."""
    k = cost.shape[-1]
    # By place: the cost of the component at place i if it stood at place j.
    placed = cost.gather(2, order.unsqueeze(-1).expand(*order.shape, k))
    own = placed.diagonal(dim1=-2, dim2=-1)
    exchange = placed + placed.mT - own.unsqueeze(-1) - own.unsqueeze(-2)
    # Two components that hold next to nothing may stand in each other's place.
    compared = weights.unsqueeze(-1) + weights > _LEAST_WEIGHT
    compared = compared & ~torch.eye(k, dtype=torch.bool, device=cost.device)
    return float(((exchange < _AMBIGUOUS) & compared).flatten(2).any(-1).double().mean())

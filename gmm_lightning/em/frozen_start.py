"""Clusters of a start, given to the components whose means are frozen or expected somewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.layers import GMMLayer


def match_frozen(
    model: MixtureModel, present: MixtureParameters, x: Tensor, weight: Tensor, assigned: Tensor
) -> Tensor:
    """Assignments renumbered so that each frozen mean has the cluster that lies nearest to it.

    So has each mean that a prior expects at a centre of its own. The sum of squared distances in
    deviations of the rows is least; the other components take the other clusters in order.

    Args:
        model: of M mixtures.
        present: holds the frozen means.
        x: rows `(N, *B, D)`.
        weight: of the rows, `(N, *B)`.
        assigned: labels `(N, M)` or responsibilities `(N, M, K)`.
    """
    k = present.num_components
    frozen = model.has_frozen("means").expand(present.num_mixtures, k)
    expected = present.means
    for centres in (prior.centres for prior in model.priors):
        if centres is not None:
            expected = torch.where(frozen.unsqueeze(-1), expected, centres.to(expected))
            frozen = torch.ones_like(frozen)
    if not bool(frozen.any()):
        return assigned
    rows, weights = model.per_mixture(x), model.per_mixture(weight)
    places = []
    for m in range(present.num_mixtures):
        own, labels = rows[:, m].double(), assigned[:, m]
        share = torch.nn.functional.one_hot(labels, k) if labels.dim() == 1 else labels
        share = share.double() * weights[:, m].double().unsqueeze(-1)
        total = share.sum(0).unsqueeze(-1)
        centres = (share.mT @ own) / total.clamp(min=torch.finfo(own.dtype).tiny)
        unit = own.std(0, correction=0)
        unit = torch.where(unit > 0, unit, 1.0)
        gap = (expected[m].double().unsqueeze(1) - centres) / unit
        cost = torch.where(total.squeeze(-1) > 0, gap.square().sum(-1), torch.inf)
        places.append(_places(frozen[m], cost))
    place = torch.stack(places).to(assigned.device)
    if assigned.dim() == 2:
        # The component of each cluster.
        return place.argsort(-1).T.gather(0, assigned)
    return assigned.gather(2, place.expand(len(assigned), *place.shape))


def order_centres(layer: GMMLayer) -> None:
    """Give each component, as it is, the nearest of the centres that priors took from the rows."""
    k, d = layer.num_components, layer.num_features
    for prior in layer.all_priors:
        if prior.centres is None or not prior.uses_centroids:
            continue
        centres, means = (
            v.detach().double().reshape(-1, k, d) for v in (prior.centres, layer.means)
        )
        unit = centres.std(-2, correction=0, keepdim=True)
        unit = torch.where(unit > 0, unit, 1.0).unsqueeze(-2)
        gap = (means.unsqueeze(-2) - centres.unsqueeze(-3)) / unit
        every = torch.ones(k, dtype=torch.bool)
        places = [_places(every, cost) for cost in gap.square().sum(-1)]
        index = torch.stack(places).reshape(*layer.batch_shape, k)
        prior.reorder(index.to(layer.means.device))


def _places(frozen: Tensor, cost: Tensor) -> Tensor:
    """The cluster of each component, `(K,)`, from costs of components and clusters `(K, K)`."""
    from scipy.optimize import linear_sum_assignment  # imported by a fit that needs it alone

    # A cluster without rows is farther than any other.
    finite = cost[torch.isfinite(cost)]
    farthest = 1 + 2 * float(finite.max()) * len(cost) if len(finite) else 1.0
    held = frozen.nonzero().squeeze(-1)
    table = torch.where(torch.isfinite(cost), cost, farthest)[held]
    taken = torch.as_tensor(linear_sum_assignment(table.cpu().numpy())[1])
    place = torch.empty(len(frozen), dtype=torch.long)
    place[held.cpu()] = taken
    rest = [c for c in range(len(frozen)) if c not in set(taken.tolist())]
    place[(~frozen).nonzero().squeeze(-1).cpu()] = torch.tensor(rest, dtype=torch.long)
    return place

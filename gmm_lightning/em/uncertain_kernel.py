"""EM on rows with missing entries or errors: sums over the conditional moments of the true rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.conditionals import conditionals_for
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.responsibilities import Responsibilities
from gmm_lightning.em.uncertain_rows import UncertainRows
from gmm_lightning.linalg import accumulator_dtype, exact_products
from gmm_lightning.statistics import SufficientStatistics


@torch.no_grad()
def uncertain_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    rows: Sequence[UncertainRows],
    responsibilities: Responsibilities,
) -> SufficientStatistics:
    """Expected statistics `(M, ...)` about the means, in float64.

    With `d = E[x - mu]` and `C = Cov[x]` given what is known of a row, under a component:

        first = sum_n r_n d_n      second = sum_n r_n (d_n d_n' + C_n)

    Args:
        model: family and evidence.
        parameters: of M mixtures.
        rows: those that all mixtures read, or those of each of the batch.
        responsibilities: maps log joint densities to responsibilities.
    """
    with exact_products(parameters.device):
        if rows[0].cell is None:
            return _of_shared_rows(model, parameters, rows[0], responsibilities)
        found, places = [], []
        for own in rows:
            index = (model.batch_index == own.cell).nonzero().squeeze(-1)
            if len(index):
                some = model.select(index), parameters.select(index)
                found.append(_of_shared_rows(*some, own, responsibilities))
                places.append(index)
    return SufficientStatistics.concatenate(found).select(torch.cat(places).argsort())


def _of_shared_rows(
    model: MixtureModel,
    parameters: MixtureParameters,
    rows: UncertainRows,
    responsibilities: Responsibilities,
) -> SufficientStatistics:
    """Statistics of rows that all mixtures read."""
    family, wide = model.family, parameters.to(accumulator_dtype(parameters.device))
    means, k = wide.means, wide.num_components
    log_weights = wide.mixture_logits.log_softmax(-1).unsqueeze(-1)
    first = torch.zeros_like(means)
    counts, log_likelihood = first[..., 0].clone(), first[:, 0, 0].clone()
    second = family.outer(counts.unsqueeze(0), first.unsqueeze(0))
    spread: Tensor | float = 0.0
    for part in conditionals_for(family, model.scale(wide), means, rows).of(rows):
        log_joint = part.log_density + log_weights
        if model.evidence is not None:
            # Its module has the dtype of the layer.
            own = part.rows._replace(x=part.rows.x.to(model.local_scale))
            log_joint += model.log_evidence(own, k).movedim(0, -1)
        resp, log_prob = responsibilities(log_joint, -2, part.rows)
        if part.rows.weight is not None:
            weight = model.per_mixture(part.rows.weight.to(means)).T
            resp, log_prob = resp * weight.unsqueeze(-2), log_prob * weight
        counts += resp.sum(-1)
        first += (part.diff @ resp.unsqueeze(-1)).squeeze(-1)
        second += family.outer(resp.movedim(-1, 0), part.diff.movedim(-1, 0))
        spread = spread + part.spread(resp)
        log_likelihood += log_prob.sum(-1)
    assert isinstance(spread, Tensor)
    return SufficientStatistics(
        counts=counts,
        first=first,
        second=second + _in_form(family, spread, means),
        shift=parameters.means,
        log_likelihood=log_likelihood,
        num_samples=counts.new_full((), rows.batch.num_rows),
    )


def _in_form(family: Covariance, spread: Tensor, means: Tensor) -> Tensor:
    """Sums of covariances `(M, K, D, D)`, or of their diagonals, in the family's form."""
    if spread.dim() == means.dim():
        spread = spread.diag_embed()
    found = family.project(spread)
    return found.sum(1, keepdim=True) if family.tied else found

"""EM on rows with missing entries or errors: sums over the conditional moments of the true rows."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.conditionals import conditionals_for
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.noise_entry import row_shares
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.pattern_marginals import marginal_statistics
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
    chunk_size: int | None = None,
) -> SufficientStatistics:
    """Expected statistics `(M, ...)` about the means.

    With `d = E[x - mu]` and `C = Cov[x]` given what is known of a row, under a component:

        first = sum_n r_n d_n      second = sum_n r_n (d_n d_n' + C_n)

    Args:
        model: family and evidence.
        parameters: of M mixtures.
        rows: those that all mixtures read, or those of each of the batch.
        responsibilities: maps log joint densities to responsibilities.
        chunk_size: rows at a time; None: as many as stay in cache.
    """
    with exact_products(parameters.device):
        if rows[0].cell is None:
            return _of_shared_rows(model, parameters, rows[0], responsibilities, chunk_size)
        found, places = [], []
        for own in rows:
            index = (model.batch_index == own.cell).nonzero().squeeze(-1)
            if len(index):
                some = model.select(index), parameters.select(index)
                found.append(_of_shared_rows(*some, own, responsibilities, chunk_size))
                places.append(index)
    return SufficientStatistics.concatenate(found).select(torch.cat(places).argsort())


def takes_marginals(model: MixtureModel) -> bool:
    """Whether rows of one pattern may be taken as complete rows of fewer features."""
    # Evidence and noise may read all features.
    return model.evidence is None and model.noise is None


def _of_shared_rows(
    model: MixtureModel,
    parameters: MixtureParameters,
    rows: UncertainRows,
    responsibilities: Responsibilities,
    chunk_size: int | None,
) -> SufficientStatistics:
    """Statistics of rows that all mixtures read."""
    scale = model.scale(parameters.to(accumulator_dtype(parameters.device)))
    parts = [
        marginal_statistics(model, parameters, scale, own, responsibilities, chunk_size)
        for own in rows.frequent
    ]
    if rows.batch.num_rows or not parts:
        parts += [_of_rare_patterns(model, parameters, rows, responsibilities, chunk_size)]
    return functools.reduce(operator.add, parts)


def _of_rare_patterns(
    model: MixtureModel,
    parameters: MixtureParameters,
    rows: UncertainRows,
    responsibilities: Responsibilities,
    chunk_size: int | None,
) -> SufficientStatistics:
    """Statistics of rows from their conditional moments, in float64."""
    family, wide = model.family, parameters.to(accumulator_dtype(parameters.device))
    means = wide.means
    log_weights = wide.mixture_logits.log_softmax(-1).unsqueeze(-1)
    first = torch.zeros_like(means)
    counts, log_likelihood = first[..., 0].clone(), first[:, 0, 0].clone()
    noise_rows = log_likelihood.clone()
    second = family.outer(counts.unsqueeze(0), first.unsqueeze(0))
    conditionals = conditionals_for(family, model.scale(wide), means, rows)
    for part in conditionals.of(rows, chunk_size) if rows.batch.num_rows else ():
        log_joint = part.log_density + log_weights
        shares = row_shares(model, wide, log_joint, part.rows, responsibilities, "marginalize")
        if part.rows.weight is not None:
            shares = shares.weighted_(model.per_mixture(part.rows.weight.to(means)))
        resp, noise, log_prob = shares
        counts += resp.sum(-1)
        first += (part.diff @ resp.unsqueeze(-1)).squeeze(-1)
        second += family.outer(resp.movedim(-1, 0), part.diff.movedim(-1, 0))
        second += _in_form(family, part.spread(resp), means)
        noise_rows += noise.sum((-2, -1))
        log_likelihood += log_prob.sum(-1)
    return SufficientStatistics(
        counts=counts,
        first=first,
        second=second,
        shift=parameters.means,
        log_likelihood=log_likelihood,
        num_samples=counts.new_full((), rows.batch.num_rows),
        noise=noise_rows,
    )


def _in_form(family: Covariance, spread: Tensor, means: Tensor) -> Tensor:
    """Sums of covariances `(M, K, D, D)`, or of their diagonals, in the family's form."""
    if family.tied:
        spread = spread.sum(1, keepdim=True)
    return family.project(spread.diag_embed() if spread.dim() == means.dim() else spread)

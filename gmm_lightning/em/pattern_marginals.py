"""EM on many rows of one pattern: the E-step of their marginal mixture, and what it says of all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.complete_rows import expected_statistics
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import make_plan
from gmm_lightning.em.responsibilities import Responsibilities
from gmm_lightning.em.uncertain_rows import PatternRows
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.statistics import SufficientStatistics


@torch.no_grad()
def marginal_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    scale: Tensor,
    rows: PatternRows,
    responsibilities: Responsibilities,
    chunk_size: int | None = None,
) -> SufficientStatistics:
    """Expected statistics `(M, ...)` of all features, from those of the observed ones.

    With d the differences of the observed features O, `T = (I; Sigma_MO Sigma_OO^-1)` and C the
    conditional covariance of the missing ones M, 0 elsewhere:

        first = T sum_n r_n d_n      second = T (sum_n r_n d_n d_n') T' + n C

    Args:
        model: without evidence, which may read all features.
        parameters: of M mixtures.
        scale: of their covariances in float64, in the family's form.
        rows: of one pattern, which all mixtures read.
        responsibilities: maps log joint densities to responsibilities.
        chunk_size: rows at a time; None: as many as stay in cache.
    """
    family, d = model.family, parameters.means.shape[-1]
    missing, observed = (own.to(parameters.device) for own in (rows.missing, rows.observed))
    known, unknown, slope = family.condition(scale, observed, missing, d)
    raw = family.raw(known).to(parameters.dtype)
    own = parameters._replace(means=parameters.means[..., observed], raw_scale=raw)
    marginal = replace(model, local_scale=model.local_scale[:, observed])
    plan = make_plan(marginal, own, rows.batch.num_rows, shared=True)
    found = expected_statistics(
        marginal,
        own,
        plan,
        [rows.batch],
        workspace=Workspace(chunk_size),
        responsibilities=responsibilities,
        pooled=rows.pooled,
    )
    whole = rows.embedding.to(scale).repeat(*scale.shape[:2], 1, 1)
    if slope is not None:
        whole[..., missing, :] = slope
    counts = family.sum_tied(found.counts)[..., None, None]
    second = whole @ _dense(family, found.second, len(observed)) @ whole.mT
    rest = second[..., missing.unsqueeze(-1), missing]
    rest = rest + counts * family.covariance_matrix(unknown, len(missing))
    second[..., missing.unsqueeze(-1), missing] = rest
    return replace(
        found,
        first=(whole @ found.first.unsqueeze(-1)).squeeze(-1),
        second=family.project(second),
        shift=parameters.means,
    )


def _dense(family: Covariance, second: Tensor, num_features: int) -> Tensor:
    """Second moments in a family's form as matrices `(M, G, I, I)`."""
    if family.axis_aligned:
        return family.variances(second, num_features).diag_embed()
    return second

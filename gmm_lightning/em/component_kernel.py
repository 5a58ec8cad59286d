"""EM with each component computed as the plan says: by products, or from differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.noise_entry import row_shares
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan_parts import PlanPart, parts_of
from gmm_lightning.em.plan_terms import EStepPlan
from gmm_lightning.em.products import squeeze_group
from gmm_lightning.em.responsibilities import NEGLIGIBLE, Responsibilities
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.linalg import accumulator_dtype, exact_products
from gmm_lightning.rows import Batch
from gmm_lightning.statistics import SufficientStatistics

# How many components share a row is counted in one of so many chunks.
_COUNTED_CHUNKS = 8


@torch.no_grad()
def component_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    plan: EStepPlan,
    chunks: Iterable[Batch],
    *,
    workspace: Workspace,
    responsibilities: Responsibilities,
    pooled: SufficientStatistics | None = None,
) -> SufficientStatistics:
    """Expected statistics about the means.

    Tensors of size rows x components exist for one chunk only. Sums of a chunk are taken in the
    dtype of the plan and added up in float64.

    Args:
        model: family and evidence.
        parameters: of M mixtures.
        plan: made for these parameters.
        chunks: batches of rows `(n, *B, D)`, few enough to stay in cache.
        workspace: holds the buffers.
        responsibilities: maps log joint densities to responsibilities.
        pooled: moments of all rows in one component, `(B, 1, ...)` of the B mixtures of a batch,
            which a family that shares its covariance needs; None: they are summed here.
    """
    m, k, _ = parameters.means.shape
    device, wide = parameters.means.device, accumulator_dtype(parameters.means.device)
    groups, dtype = plan.num_groups, plan.joint_dtype(parameters.dtype)
    parts = parts_of(plan, model.family, parameters, workspace)
    # Only plans of components that read the same rows ask for it.
    counts_overlap = groups == 1 and not model.family.tied
    centre = _common_centre(model, parameters, plan, pooled)
    log_likelihood = torch.zeros(m, dtype=wide, device=device)
    noise_rows = torch.zeros_like(log_likelihood)
    num_samples, second = 0, log_likelihood.new_zeros(())
    shared, num_counted = log_likelihood.new_zeros((), dtype=torch.long), 0
    with exact_products(device):
        for number, chunk in enumerate(chunks):
            n = chunk.num_rows
            num_samples += n
            x = chunk.x.to(parameters.means)
            rows = _rows_of_groups(model, x, groups)
            weight = None if chunk.weight is None else model.per_mixture(chunk.weight.to(x))
            if centre is not None:
                second = second + _pooled_second(model, rows - centre, weight)
            joint = workspace.log_joint((groups, m * k // groups, n), dtype, device)
            for part in parts:
                part.write_log_joint(rows, joint)
            shares = row_shares(model, parameters, joint.view(m, k, n), chunk, responsibilities)
            if counts_overlap and number % _COUNTED_CHUNKS == 0:
                resp, num_counted = shares.components, num_counted + n
                shared += torch.count_nonzero(resp > NEGLIGIBLE[resp.dtype])
            if weight is not None:
                shares = shares.weighted_(weight)
            noise_rows += shares.noise.sum((-2, -1), dtype=wide)
            log_likelihood += shares.log_prob.sum(-1, dtype=wide)
            for part in parts:
                part.add(rows, shares.components.reshape(joint.shape))
    if counts_overlap:
        workspace.overlap = int(shared) / (m * max(1, num_counted))
    found = _assemble(model, parameters, parts, log_likelihood, noise_rows, num_samples)
    if model.family.tied:
        if pooled is not None:
            own = pooled if len(pooled.counts) == 1 else pooled.select(model.batch_index)
            second = own.second_about(found.shift[:, :1], model.family)
        found = _with_shared_second(model, parameters, found, second)
    return found.about(parameters.means, model.family)


def _rows_of_groups(model: MixtureModel, x: Tensor, groups: int) -> Tensor:
    """Rows `(n, P, D)` of each group; the axis of a single one is left out."""
    is_shared = x.shape[1:-1].numel() == 1
    rows = x.reshape(len(x), 1, -1) if groups == 1 and is_shared else model.per_mixture(x)
    return rows.squeeze(1) if groups == 1 else rows


def _common_centre(
    model: MixtureModel,
    parameters: MixtureParameters,
    plan: EStepPlan,
    pooled: SufficientStatistics | None,
) -> Tensor | None:
    """The centre about which the moments of a tied family are summed here, or None."""
    if pooled is not None or not model.family.tied:
        return None
    terms = plan.products[0]
    return squeeze_group(terms.coordinates.centre.to(terms.natural))


def _pooled_second(model: MixtureModel, diff: Tensor, weight: Tensor | None) -> Tensor:
    """Second moments of a chunk `(n[, M], D)` in one component, in the form of a tied family."""
    rows = diff.reshape(len(diff), -1, 1, diff.shape[-1])
    ones = rows.new_ones(rows.shape[:-1]) if weight is None else weight.unsqueeze(-1)
    return model.family.outer(ones, rows).to(accumulator_dtype(diff.device))


def _assemble(
    model: MixtureModel,
    parameters: MixtureParameters,
    parts: Sequence[PlanPart],
    log_likelihood: Tensor,
    noise_rows: Tensor,
    num_samples: int,
) -> SufficientStatistics:
    """The sums of all components, each about its own reference point."""
    m, k, d = parameters.means.shape
    whole: list[Tensor] = []
    for part in parts:
        index, sums = part.sums()
        if index is None:
            whole = list(sums)
            break
        if not whole:
            whole = [values.new_zeros(m * k, *values.shape[1:]) for values in sums]
        for values, own in zip(whole, sums, strict=True):
            values[index] = own
    counts, first, shift, second = whole
    if not model.family.tied:
        second = second.reshape(m, k, *second.shape[1:])
    return SufficientStatistics(
        counts=counts.reshape(m, k),
        first=first.reshape(m, k, d),
        second=second,
        shift=shift.reshape(m, k, d),
        log_likelihood=log_likelihood,
        num_samples=log_likelihood.new_full((), num_samples),
        noise=noise_rows,
    )


def _with_shared_second(
    model: MixtureModel,
    parameters: MixtureParameters,
    stats: SufficientStatistics,
    second: Tensor,
) -> SufficientStatistics:
    """Statistics of a tied family: its second moments, and the term that all components share."""
    family, d = model.family, parameters.means.shape[-1]
    scale = family.scale(parameters.raw_scale.to(stats.counts))
    form = family.project(stats.counts.new_zeros(d, d)).shape
    second = second.expand(len(parameters.means), 1, *form)
    quadratic = family.trace_precision_product(scale, second, d).sum(-1)
    return replace(stats, second=second, log_likelihood=stats.log_likelihood - 0.5 * quadratic)

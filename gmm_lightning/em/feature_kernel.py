"""EM as two matrix products per chunk: `T eta'` for the log densities, `R' T` for the sums."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gmm_lightning.em.careful import CarefulComponents
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import EStepPlan
from gmm_lightning.em.responsibilities import Responsibilities
from gmm_lightning.em.workspace import Buffers, Workspace
from gmm_lightning.linalg import accumulator_dtype, exact_products
from gmm_lightning.rows import Batch
from gmm_lightning.statistics import SufficientStatistics


@torch.no_grad()
def feature_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    plan: EStepPlan,
    chunks: Iterable[Batch],
    *,
    workspace: Workspace,
    responsibilities: Responsibilities,
    pooled: SufficientStatistics | None = None,
) -> SufficientStatistics:
    """Expected statistics about the means, in `2 N K (D(D+1)/2 + D + 1)` multiply-adds.

    Tensors of size rows x components exist for one chunk only. Sums of a chunk are taken in the
    plan's dtype and added up in float64.

    Args:
        model: family and evidence.
        parameters: of M mixtures.
        plan: made for these parameters.
        chunks: batches of rows `(n, *B, D)`, few enough to stay in cache.
        workspace: holds the buffers.
        responsibilities: maps log joint densities to responsibilities.
        pooled: moments of all rows in one component, `(M, 1, ...)`, which a family that shares
            its covariance needs; None: they are summed here.
    """
    m, k, _ = parameters.means.shape
    groups, columns, length = plan.natural.shape
    device, wide = plan.natural.device, accumulator_dtype(plan.natural.device)
    natural, matrix, centre = (
        _squeeze_group(t.to(plan.natural))
        for t in (plan.natural, plan.coordinates.matrix, plan.coordinates.centre)
    )
    sums = _squeeze_group(torch.zeros(groups, length, columns, dtype=wide, device=device))
    log_likelihood = torch.zeros(m, dtype=wide, device=device)
    pools = pooled is None and model.family.tied
    num_samples, second = 0, sums.new_zeros(())
    careful = None
    if plan.careful is not None:
        careful = CarefulComponents.select(model, parameters, plan.careful)
    with exact_products(device):
        for chunk in chunks:
            n = chunk.num_rows
            num_samples += n
            x = chunk.x.to(parameters.means)
            into = workspace.buffers(plan, n)
            flat = _rows_of_groups(model, x, groups)
            weight = None if chunk.weight is None else model.per_mixture(chunk.weight.to(x))
            if pools:
                second = second + _pooled_second(model, flat - centre, weight)
            _write_features(flat, centre, matrix, into)
            into.multiply(natural, into.features, out=into.log_joint)
            if careful is not None:
                into.log_joint[careful.index] = careful.log_joint(flat).to(natural)
            log_joint = into.log_joint.view(m, k, n)
            if model.evidence is not None:
                log_joint += model.log_evidence(chunk._replace(x=x), k).movedim(0, -1)
            resp, log_prob = responsibilities(log_joint, -2, chunk)
            if weight is not None:
                resp *= weight.T.unsqueeze(-2)
                log_prob = log_prob * weight.T
            log_likelihood += log_prob.sum(-1, dtype=wide)
            if careful is not None:
                careful.add(flat, resp.reshape(into.log_joint.shape)[careful.index])
            # In this order, T R', matrix products run faster than R T'.
            into.multiply(into.features, resp.reshape(into.log_joint.shape).mT, out=into.sums)
            sums += into.sums
    if pooled is not None:
        second = pooled.about(_centres(plan, parameters)[:, :1], model.family).second
    sums = sums.reshape(groups, length, columns)
    found = _to_statistics(model, parameters, plan, sums, second, log_likelihood, num_samples)
    return found if careful is None else careful.into(found)


def _rows_of_groups(model: MixtureModel, x: Tensor, groups: int) -> Tensor:
    """Rows `(n, P, D)` of each group; the axis of a single one is left out."""
    is_shared = x.shape[1:-1].numel() == 1
    rows = x.reshape(len(x), 1, -1) if groups == 1 and is_shared else model.per_mixture(x)
    return rows.squeeze(1) if groups == 1 else rows


def _squeeze_group(values: Tensor) -> Tensor:
    """The values without the group axis if there is only one group."""
    return values[0] if len(values) == 1 else values


def _centres(plan: EStepPlan, parameters: MixtureParameters) -> Tensor:
    """The centre of the coordinates as the reference point of each component, `(M, K, D)`."""
    groups, columns, _ = plan.natural.shape
    centre = plan.coordinates.centre.unsqueeze(-2)
    return centre.expand(groups, columns, -1).reshape(parameters.means.shape)


def _pooled_second(model: MixtureModel, diff: Tensor, weight: Tensor | None) -> Tensor:
    """Second moments of a chunk `(n[, M], D)` in one component, in the form of a tied family."""
    rows = diff.reshape(len(diff), -1, 1, diff.shape[-1])
    ones = rows.new_ones(rows.shape[:-1]) if weight is None else weight.unsqueeze(-1)
    return model.family.outer(ones, rows).to(accumulator_dtype(diff.device))


def _write_features(x: Tensor, centre: Tensor, matrix: Tensor, into: Buffers) -> None:
    """Write the features of rows, one column per row."""
    if matrix.dim() == centre.dim():
        torch.sub(x.movedim(0, -1), centre.unsqueeze(-1), out=into.z)
        into.z.mul_(matrix.unsqueeze(-1))
    else:
        torch.sub(x, centre, out=into.diff)
        into.multiply(matrix, into.diff.movedim(0, -1), out=into.z)
    into.write_features()


def _to_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    plan: EStepPlan,
    sums: Tensor,
    second: Tensor,
    log_likelihood: Tensor,
    num_samples: int,
) -> SufficientStatistics:
    """Sums in the plan's coordinates as statistics about the means, in float64."""
    family, shape = model.family, parameters.means.shape
    d = shape[-1]
    counts, terms, first = sums.mT.split([1, plan.features.num_terms, d], -1)
    if family.tied:
        scale = family.scale(parameters.raw_scale.to(sums))
        form = family.project(sums.new_zeros(d, d)).shape
        second = second.expand(shape[0], 1, *form)
        quadratic = family.trace_precision_product(scale, second, d).sum(-1)
        log_likelihood = log_likelihood - 0.5 * quadratic
    else:
        second = plan.features.second(terms, plan.coordinates)
        second = second.reshape(*shape[:-1], *second.shape[2:])
    return SufficientStatistics(
        counts=counts.reshape(shape[:-1]),
        first=plan.coordinates.inverse(first).reshape(shape),
        second=second,
        shift=_centres(plan, parameters),
        log_likelihood=log_likelihood,
        num_samples=log_likelihood.new_full((), num_samples),
    ).about(parameters.means, family)

"""EM as two matrix products per chunk: `T eta'` for the log densities, `R' T` for the sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from gmm_lightning.em.plan import Plan
from gmm_lightning.em.posterior import Posterior
from gmm_lightning.em.workspace import Buffers, Workspace
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype, exact_products
from gmm_lightning.statistics import SufficientStatistics

Rows = Iterable[tuple[Tensor, Tensor | None]]
Units = Callable[[Tensor], Tensor]


@torch.no_grad()
def feature_statistics(
    layer: GMMLayer,
    plan: Plan,
    batches: Rows,
    workspace: Workspace,
    posterior: Posterior,
    pooled: SufficientStatistics | None = None,
    units: Units | None = None,
) -> SufficientStatistics:
    """Expected statistics about the layer's means, in `2 N K (D(D+1)/2 + D + 1)` multiply-adds.

    Nothing of the size rows x components exists but for one chunk. Sums of a chunk are taken in
    the plan's dtype and added up in float64.

    Args:
        layer: the mixture.
        plan: made for its present parameters.
        batches: rows `(N, *B, D)` with their weights `(N, *B)` or None.
        workspace: where the buffers are.
        posterior: log joint densities to responsibilities.
        pooled: moments of all rows in one component, which a family that shares its covariance
            needs; None: they are summed here.
        units: a change of units of the rows, chunk by chunk.
    """
    device, batch, k = plan.natural.device, layer.batch_shape, layer.num_components
    wide = accumulator_dtype(device)
    groups, columns, length = plan.natural.shape
    natural, forward, centre = (
        of_group(t.to(plan.natural)) for t in (plan.natural, plan.frame.forward, plan.frame.centre)
    )
    sums = of_group(torch.zeros(groups, length, columns, dtype=wide, device=device))
    log_likelihood = torch.zeros(batch.numel(), dtype=wide, device=device)
    like, given = layer.means.detach(), layer.evidence
    pools = pooled is None and layer.covariance.tied
    num_samples, size, into = 0, workspace.rows_at_once(plan), None
    second: Tensor | float = 0.0
    with exact_products(device):
        for rows, weights in batches:
            if len(rows) == 0:
                continue
            num_samples += len(rows)
            parts = None if weights is None else weights.split(size)
            for i, part in enumerate(rows.split(size)):
                x = (part if units is None else units(part)).to(like)
                n = x.shape[0]
                if into is None or n != into.diff.shape[0]:
                    into = workspace.buffers(plan, n)
                if groups > 1:
                    x = x.expand(n, *batch, x.shape[-1])
                flat = x.reshape(into.diff.shape)
                w = None
                if parts is not None:
                    w = parts[i].to(like).expand(n, *batch)
                if pools:
                    second = second + pooled_second(layer, flat - centre, w, groups)
                transform(flat, centre, forward, into)
                into.multiply(natural, into.features, out=into.log_joint)
                log_joint = into.log_joint.view(batch.numel(), k, n)
                if given is not None:
                    evidence = given(x).expand(n, *batch, k)
                    log_joint += evidence.movedim(0, -1).reshape(log_joint.shape)
                log_prob = posterior(log_joint, -2)
                if w is not None:
                    per_row = w.reshape(n, -1).T
                    log_joint *= per_row.unsqueeze(-2)
                    log_prob = log_prob * per_row
                log_likelihood += log_prob.sum(-1, dtype=wide)
                # In this order, T R', matrix products run faster than R T'.
                into.multiply(into.features, into.log_joint.mT, out=into.sums)
                sums += into.sums
    if pooled is not None:
        second = pooled.about(centres(plan, layer)[..., :1, :], layer.covariance).second
    sums = sums.reshape(groups, length, columns)
    return assembled(layer, plan, sums, second, log_likelihood, num_samples)


def of_group(values: Tensor) -> Tensor:
    """Without the axis of groups where there is one only: matrices, not batches of them."""
    return values[0] if len(values) == 1 else values


def centres(plan: Plan, layer: GMMLayer) -> Tensor:
    """The frame's centre as a reference point of each component, `(*B, K, D)`."""
    groups, columns, _ = plan.natural.shape
    centre = plan.frame.centre.unsqueeze(-2).expand(groups, columns, layer.num_features)
    return centre.reshape(layer.means.shape)


def pooled_second(layer: GMMLayer, diff: Tensor, weight: Tensor | None, groups: int) -> Tensor:
    """Second moments of a chunk `(n[, P], D)` in one component, in the form of a tied family."""
    batch = layer.batch_shape if groups > 1 else (1,) * len(layer.batch_shape)
    rows = diff.reshape(len(diff), *batch, 1, diff.shape[-1])
    ones = diff.new_ones(len(diff), *batch) if weight is None else weight.to(diff)
    wide = accumulator_dtype(diff.device)
    return layer.covariance.outer(ones.unsqueeze(-1), rows).to(wide)


def transform(x: Tensor, centre: Tensor, forward: Tensor, into: Buffers) -> None:
    """Rows become columns of features."""
    if forward.dim() == centre.dim():
        torch.sub(x.movedim(0, -1), centre.unsqueeze(-1), out=into.z)
        into.z.mul_(forward.unsqueeze(-1))
    else:
        torch.sub(x, centre, out=into.diff)
        into.multiply(forward, into.diff.movedim(0, -1), out=into.z)
    into.fill()


def assembled(
    layer: GMMLayer,
    plan: Plan,
    sums: Tensor,
    second: Tensor | float,
    log_likelihood: Tensor,
    num_samples: int,
) -> SufficientStatistics:
    """Sums in the frame's coordinates as statistics about the layer's means, in float64."""
    family, shape = layer.covariance, layer.means.shape
    d = layer.num_features
    counts, terms, first = sums.mT.split([1, plan.features.num_terms, d], -1)
    counts = counts.squeeze(-1).reshape(shape[:-1])
    log_likelihood = log_likelihood.reshape(layer.batch_shape)
    if family.tied:
        scale = family.scale(layer.raw_scale.detach().to(sums))
        form = family.project(sums.new_zeros(d, d)).shape
        second = (second + sums.new_zeros(())).expand(*shape[:-2], 1, *form)
        log_likelihood = log_likelihood - 0.5 * family.trace_precision_product(
            scale, second, d
        ).sum(-1)
    else:
        second = plan.features.second(terms, plan.frame)
        second = second.reshape(*shape[:-1], *second.shape[2:])
    return SufficientStatistics(
        counts=counts,
        first=plan.frame.out_of(first).reshape(shape),
        second=second,
        shift=centres(plan, layer),
        log_likelihood=log_likelihood,
        num_samples=log_likelihood.new_full((), num_samples),
    ).about(layer.means.detach().clone(), family)

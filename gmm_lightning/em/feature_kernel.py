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
    device, batch = plan.natural.device, layer.batch_shape
    wide = accumulator_dtype(device)
    groups, columns, length = plan.natural.shape
    sums = torch.zeros(groups, length, columns, dtype=wide, device=device)
    log_likelihood = torch.zeros(batch.numel(), dtype=wide, device=device)
    centre = plan.frame.centre.to(plan.natural.dtype)
    forward = plan.frame.forward.to(plan.natural.dtype)
    given, num_samples, size = layer.evidence, 0, workspace.rows_at_once(plan)
    second: Tensor | float = 0.0
    with exact_products(device):
        for rows, weights in batches:
            num_samples += len(rows)
            for start in range(0, len(rows), size):
                x = rows[start : start + size]
                x = (x if units is None else units(x)).to(layer.means)
                into = workspace.buffers(plan, len(x))
                apart = x if plan.shared else x.expand(len(x), *batch, x.shape[-1])
                torch.sub(apart.reshape(len(x), groups, -1), centre, out=into.diff)
                w = None
                if weights is not None:
                    w = weights[start : start + size].to(into.diff).expand(len(x), *batch)
                if pooled is None and layer.covariance.tied:
                    second = second + pooled_second(layer, into.diff, w)
                transform(forward, into)
                products(plan.natural, into)
                log_joint = into.log_joint.view(batch.numel(), layer.num_components, len(x))
                if given is not None:
                    evidence = given(x).expand(len(x), *batch, layer.num_components)
                    log_joint += evidence.movedim(0, -1).reshape(log_joint.shape)
                log_prob = posterior(log_joint, -2)
                if w is not None:
                    columns = w.reshape(len(x), -1).T
                    log_joint *= columns.unsqueeze(-2)
                    log_prob = log_prob * columns
                log_likelihood += log_prob.sum(-1, dtype=wide)
                gather(into)
                sums += into.sums
    if pooled is not None:
        second = pooled.about(centres(plan, layer)[..., :1, :], layer.covariance).second
    return assembled(layer, plan, sums, second, log_likelihood, num_samples)


def centres(plan: Plan, layer: GMMLayer) -> Tensor:
    """The frame's centre as a reference point of each component, `(*B, K, D)`."""
    groups, columns, _ = plan.natural.shape
    centre = plan.frame.centre.unsqueeze(-2).expand(groups, columns, layer.num_features)
    return centre.reshape(layer.means.shape)


def pooled_second(layer: GMMLayer, diff: Tensor, weight: Tensor | None) -> Tensor:
    """Second moments of a chunk `(n, P, D)` in one component, in the form of a tied family."""
    batch = layer.batch_shape if diff.shape[1] > 1 else (1,) * len(layer.batch_shape)
    rows = diff.reshape(len(diff), *batch, 1, diff.shape[-1])
    ones = diff.new_ones(len(diff), *batch) if weight is None else weight
    wide = accumulator_dtype(diff.device)
    return layer.covariance.outer(ones.unsqueeze(-1), rows).to(wide)


def transform(forward: Tensor, into: Buffers) -> None:
    """Differences to the centre become columns of features."""
    groups = len(forward)
    columns = into.diff.permute(1, 2, 0)
    if forward.dim() == 2:
        into.diff.mul_(forward)
        into.z.copy_(columns)
    elif groups == 1:
        torch.mm(forward[0], columns[0], out=into.z[0])
    else:
        torch.bmm(forward, columns, out=into.z)
    into.fill()


def products(natural: Tensor, into: Buffers) -> None:
    """`eta T`: log joint densities of a chunk."""
    if len(natural) == 1:
        torch.mm(natural[0], into.features[0], out=into.log_joint[0])
    else:
        torch.bmm(natural, into.features, out=into.log_joint)


def gather(into: Buffers) -> None:
    """`T R'`: sums of a chunk, in the order that matrix products like better here."""
    if len(into.sums) == 1:
        torch.mm(into.features[0], into.log_joint[0].T, out=into.sums[0])
    else:
        torch.bmm(into.features, into.log_joint.mT, out=into.sums)


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
        log_likelihood = log_likelihood - 0.5 * family.trace_solve(scale, second, d).sum(-1)
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

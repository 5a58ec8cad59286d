"""Statistics under fixed assignments of rows to components: the start of EM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.covariances import Covariance
from gmm_lightning.em.centred_kernel import WeightedChunk, centred_statistics
from gmm_lightning.em.complete_rows import expected_statistics
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import MAX_CANCELLATION, make_plan
from gmm_lightning.em.responsibilities import ASSIGNMENTS, assigned_responsibilities_
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.linalg import accumulator_dtype, unsqueeze_like
from gmm_lightning.rows import Batch, is_shared
from gmm_lightning.statistics import Moments, SufficientStatistics

# A sum over the rows of one component takes as long as products of so many features (measured).
_PRODUCTS_OF_A_SUM = 1 << 19


def assigned_statistics(
    model: MixtureModel, present: MixtureParameters, rows: Batch
) -> SufficientStatistics:
    """Statistics under fixed assignments, in float64, about the mean of all rows.

    Where the components are so tight and far apart that this loses digits, they are taken about
    the mean of each component, and so are those of labels, where each component sums its own rows.
    """
    assert rows.extra is not None
    if _sums_pay(model, present, rows, rows.extra[ASSIGNMENTS]):
        return _label_statistics(model, present, rows)
    family, wide = model.family, accumulator_dtype(present.means.device)
    whole = _single_component(model, present.to(wide), rows)
    # Evidence is used from the first E-step on.
    plain = model.gaussians_alone()
    plan = make_plan(plain, whole, rows.num_rows, shared=is_shared(rows.x))
    if plan is not None:
        stats = expected_statistics(
            plain,
            whole,
            plan,
            [rows],
            workspace=Workspace(),
            responsibilities=assigned_responsibilities_,
        )
        moments = Moments.from_statistics(stats, family)
        within = family.variances(moments.scatter, whole.means.shape[-1])
        within = within / family.sum_tied(stats.counts).clamp(min=1e-300).unsqueeze(-1)
        between = (moments.means - whole.means).square()
        exact = between <= MAX_CANCELLATION[wide] * within
        if not family.tied and whole.num_components > 1:
            # The smallest clusters get rows of the others: see `with_pooled_rows`.
            exact |= (stats.counts <= whole.means.shape[-1]).unsqueeze(-1)
        if bool(exact.all()):
            return stats
    shift = _component_means(model, rows, _one_row_each(model, rows, whole.means))
    return centred_statistics(family, shift, _assigned_chunks(model, rows, shift))


def _sums_pay(model: MixtureModel, like: MixtureParameters, rows: Batch, given: Tensor) -> bool:
    """Whether sums of each component's own rows take less time than products for all of them."""
    if given.is_floating_point() or model.family.tied or not is_shared(rows.x):
        return False
    features = model.family.features(like.means.shape[-1])
    numbers = rows.num_rows * (1 if features is None else features.num_terms)
    return numbers >= _PRODUCTS_OF_A_SUM


def _label_statistics(
    model: MixtureModel, like: MixtureParameters, rows: Batch
) -> SufficientStatistics:
    """Statistics of labels `(N, M)` about the mean of each component, from its own rows."""
    assert rows.extra is not None
    assert rows.weight is not None
    labels, family = rows.extra[ASSIGNMENTS].to(like.device), model.family
    x = rows.x.reshape(rows.num_rows, -1)
    weight = model.per_mixture(rows.weight)
    means = like.means.to(accumulator_dtype(like.device))
    counts, first, shift = (
        torch.zeros_like(means[..., 0]),
        torch.zeros_like(means),
        torch.zeros_like(means),
    )
    second = family.outer(counts.unsqueeze(0), first.unsqueeze(0))
    size = rows_per_chunk(2 * x.shape[-1], means, in_cache=False)
    for m, own in enumerate(labels.unbind(1)):
        order, sizes = own.argsort(stable=True), own.bincount(minlength=means.shape[1]).tolist()
        for k, index in enumerate(order.split(sizes)):
            counts[m, k] = weight[index, m].sum(dtype=counts.dtype)
            if not bool(counts[m, k] > 0):
                continue
            # The mean of differences to a row of the component, then differences to the mean.
            parts = index.split(size)
            row = x[index[0]].to(means)
            gap = sum(weight[i, m].to(means) @ (x[i].to(means) - row) for i in parts)
            shift[m, k] = row + gap / counts[m, k]
            for i in parts:
                diff, w = x[i].to(means) - shift[m, k], weight[i, m].to(means)
                first[m, k] += w @ diff
                second[m, k] += family.outer(w.unsqueeze(-1), diff.unsqueeze(1))[0]
    # Components without rows are at the mean of all.
    whole = (counts.unsqueeze(-1) * shift).sum(1, keepdim=True) / counts.sum(1)[:, None, None]
    shift = torch.where(counts.unsqueeze(-1) > 0, shift, whole)
    nothing = counts.new_zeros(len(means))
    return SufficientStatistics(
        counts=counts,
        first=first,
        second=second,
        shift=shift,
        log_likelihood=nothing,
        num_samples=nothing.new_full((), rows.num_rows),
        noise=nothing,
    )


def _one_row_each(model: MixtureModel, rows: Batch, means: Tensor) -> Tensor:
    """A row of each component, `(M, K, D)`: differences to it are as small as the component."""
    assert rows.extra is not None
    given, k = rows.extra[ASSIGNMENTS].to(means.device), means.shape[1]
    x, index = rows.x.to(means), model.batch_index
    if given.is_floating_point():
        most = given.max(0)
        place, used = most.indices, most.values > 0
    else:
        order = torch.arange(len(x), device=means.device).unsqueeze(-1).expand(given.shape)
        place = order.new_full((given.shape[1], k), len(x))
        place.scatter_reduce_(1, given.long().T, order.T, "amin")
        used, place = place < len(x), place.clamp(max=len(x) - 1)
    if is_shared(x):
        own = x.reshape(len(x), -1)[place]
    else:
        own = x.expand(len(x), *model.batch_shape, -1).flatten(1, -2)[place, index.unsqueeze(-1)]
    return torch.where(used.unsqueeze(-1), own, means)


def _component_means(model: MixtureModel, rows: Batch, shift: Tensor) -> Tensor:
    """The mean of each component, `(M, K, D)`, from differences to a row of it."""
    counts, first = torch.zeros_like(shift[..., :1]), torch.zeros_like(shift)
    for x, resp, _ in _assigned_chunks(model, rows, shift):
        weight = resp.unsqueeze(-1)
        counts += weight.sum(0)
        first += (weight * (x.unsqueeze(-2) - shift)).sum(0)
    return shift + first / torch.where(counts > 0, counts, 1.0)


def with_pooled_rows(
    stats: SufficientStatistics, family: Covariance, mean_weight: Tensor
) -> SufficientStatistics:
    """Statistics in which small clusters have a covariance: a singular start rarely recovers.

    A cluster of n < D + 1 rows gets the scatter `(W_k + m W) n / (n + m)` with `m = D + 1 - n`
    rows of W, the covariance within all clusters. A row has the mean weight `(M,)`.
    """
    d, counts = stats.shift.shape[-1], stats.counts
    least = (d + 1) * mean_weight.to(counts).unsqueeze(-1)
    if family.tied or counts.shape[-1] == 1 or bool((counts >= least).all()):
        return stats
    moments = Moments.from_statistics(stats, family)
    about = stats.about(moments.means, family)
    total = counts.sum(-1, keepdim=True)
    within = moments.scatter.sum(1, keepdim=True) / unsqueeze_like(total, moments.scatter)
    missing = unsqueeze_like((least - counts).clamp(min=0), moments.scatter)
    present = unsqueeze_like(counts, moments.scatter)
    scatter = (moments.scatter + missing * within) * present / (present + missing)
    return replace(about, first=torch.zeros_like(about.first), second=scatter)


def _single_component(
    model: MixtureModel, like: MixtureParameters, rows: Batch
) -> MixtureParameters:
    """Parameters with every component at the mean and the variance of all rows."""
    family, k = model.family, like.means.shape[1]
    assert rows.weight is not None
    x = rows.x.to(like.means)
    share = (rows.weight / rows.weight.sum(0)).to(like.means).unsqueeze(-1)
    centre = (share * x).sum(0)
    centre = centre + (share * (x - centre)).sum(0)
    variance = (share * (x - centre).square()).sum(0)
    variance = torch.where(variance > 0, variance, 1.0)
    centre, variance = (
        model.per_mixture(v.unsqueeze(0))[0].unsqueeze(1).expand_as(like.means)
        for v in (centre, variance)
    )
    groups = family.groups(k)
    projected = family.project(variance[:, :groups].diag_embed())
    scale = family.estimate(projected, torch.ones_like(variance[:, :groups, 0]))
    mass = torch.ones_like(like.mixture_logits)
    return model.from_constrained(mass, centre, scale, like.noise_logit, centre.dtype)


def _assigned_chunks(model: MixtureModel, rows: Batch, means: Tensor) -> Iterator[WeightedChunk]:
    for part in rows.split(rows_per_chunk(means.numel(), means)):
        assert part.weight is not None
        x, weight = model.per_mixture(part.x.to(means)), model.per_mixture(part.weight.to(means))
        resp = means.new_empty(*weight.shape, means.shape[1])
        resp, log_prob = assigned_responsibilities_(resp, -1, part)
        yield WeightedChunk(x, resp * weight.unsqueeze(-1), log_prob)

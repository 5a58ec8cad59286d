"""What a prior on covariances takes from the data: a target, and how many rows it is worth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.centred_kernel import WeightedChunk, centred_statistics
from gmm_lightning.em.left_out import LARGE, choose_strength
from gmm_lightning.em.pooled_target import pooled_target
from gmm_lightning.em.spanned_rows import left_out_rows
from gmm_lightning.initializers import KMeans, is_near, standardize
from gmm_lightning.priors import DataMoments
from gmm_lightning.rows import RowSource
from gmm_lightning.statistics import Moments, SufficientStatistics

# Rows that the target is read from, and parts in which they are left out.
_MAX_ROWS, _NUM_FOLDS = 1 << 13, 5
# The least variance of the target, in units of the squared local scale.
_LEAST = 1e-4


class CovarianceTarget(NamedTuple):
    """A target of covariances, `(1, ...)` in the family's form, and its strength in rows, `()`."""

    target: Tensor
    strength: Tensor


@torch.no_grad()
def with_targets(
    moments: DataMoments,
    source: RowSource,
    local_scale: Tensor,
    num_components: int,
    family: Covariance,
) -> DataMoments:
    """The moments of the data with medians, targets and strengths for each mixture of a batch.

    Of many rows a sample is read, the same one in every process.

    Args:
        moments: of the rows, batch shape B.
        source: the rows `(N, *B, D)`.
        local_scale: of the features, `(*B, D)`.
        num_components: K.
        family: of the covariances.
    """
    rows = source.sample(max(_MAX_ROWS, 64 * num_components), Generator().manual_seed(0))
    *shape, d = moments.mean.shape
    x = rows.x.double().cpu().expand(rows.num_rows, *shape, d).reshape(rows.num_rows, -1, d)
    weight = torch.ones(x.shape[:-1], dtype=x.dtype)
    if rows.weight is not None:
        weight = rows.weight.double().cpu().expand(rows.num_rows, *shape).reshape(weight.shape)
    scale = local_scale.double().cpu().reshape(-1, d)
    found, centers = [], []
    for m in range(x.shape[1]):
        some = weight[:, m] > 0
        own, w = x[some, m], weight[some, m]
        least = torch.where(scale[m] > 0, _LEAST * scale[m].square(), 0.5 / math.pi)
        found.append(covariance_target(own, w, num_components, family, least))
        centers.append(_weighted_median(own, w))
    like = moments.mean
    target = torch.stack([one.target for one in found])
    return replace(
        moments,
        center=torch.stack(centers).reshape(like.shape).to(like),
        target=target.reshape(*shape, *target.shape[1:]).to(like),
        strength=torch.stack([one.strength for one in found]).reshape(*shape, 1).to(like),
    )


def _weighted_median(x: Tensor, weight: Tensor) -> Tensor:
    """The value of each feature that half of the weight does not exceed, `(D,)`."""
    values, order = x.sort(0)
    reached = weight[order].cumsum(0) >= 0.5 * weight.sum()
    return values.gather(0, reached.int().argmax(0, keepdim=True)).squeeze(0)


@torch.no_grad()
def covariance_target(
    x: Tensor, weight: Tensor, num_components: int, family: Covariance, least: Tensor
) -> CovarianceTarget:
    """The target and strength with which left-out rows of k-means clusters are most likely.

    The target has the geometric mean over the clusters of each feature's variance, and their
    pooled correlations, shrunk towards none by a share a. A covariance becomes

        (W_k + v T) / (n_k + v),    W_k: scatter of a cluster of n_k rows

    and v and a are chosen by cross-validation: the smallest v that is within one standard error
    of the best (Breiman et al. 1984). With one component the variances of T are those of the
    data, so that the mode is not biased.

    Args:
        x: rows `(N, D)`.
        weight: of the rows, positive, `(N,)`.
        num_components: K.
        family: of the covariances.
        least: the smallest variance of the target for each feature, `(D,)`.
    """
    generator = Generator().manual_seed(0)
    # Equal rows stay together, and neither their order nor how weights are spelt matters.
    x, place = torch.unique(x, dim=0, return_inverse=True)
    weight = torch.zeros(len(x), dtype=x.dtype).index_add(0, place, weight)
    number = min(num_components, len(x))
    labels = KMeans().assign(standardize(x, weight), number, weight, generator)
    if num_components > 1:
        # One row far away would make a cluster's variance, and the density of left-out rows, its
        # own.
        means = _cluster_means(x, weight, labels, num_components)
        near = is_near(((x - means[labels]) / least.sqrt()).square().sum(-1), weight)
        x, weight, labels = x[near], weight[near], labels[near]
    num_folds = min(2 if x.shape[-1] > LARGE else _NUM_FOLDS, len(x))
    fold = torch.randperm(len(x), generator=generator) % num_folds
    folds = _statistics_of_folds(x, weight, labels, fold, num_components, family)
    whole = folds.map(lambda values: values.sum(0, keepdim=True))
    whole = _about(whole, folds.shift[:1])
    rest = _about(folds.map(lambda values: values.sum(0, keepdim=True) - values), folds.shift)
    score = left_out_rows(folds, Moments.from_statistics(rest, family), family, least)
    strength, share = choose_strength(score)
    moments = Moments.from_statistics(whole, family)
    return CovarianceTarget(
        pooled_target(moments, share, family, least)[0], x.new_tensor(strength, dtype=torch.float64)
    )


def _about(stats: SufficientStatistics, shift: Tensor) -> SufficientStatistics:
    """Sums over statistics, whose shift is the common one."""
    return replace(stats, shift=shift)


def _cluster_weights(weight: Tensor, labels: Tensor, num_components: int) -> Tensor:
    """The weight of each row in its cluster, `(N, K)`."""
    return torch.nn.functional.one_hot(labels, num_components).to(weight) * weight.unsqueeze(-1)


def _cluster_means(x: Tensor, weight: Tensor, labels: Tensor, num_components: int) -> Tensor:
    """`(K, D)`; 0 without rows."""
    resp = _cluster_weights(weight, labels, num_components)
    return (resp.T @ x) / resp.sum(0).clamp(min=1e-300).unsqueeze(-1)


def _statistics_of_folds(
    x: Tensor, weight: Tensor, labels: Tensor, fold: Tensor, num_components: int, family: Covariance
) -> SufficientStatistics:
    """Statistics of every cluster in every fold, `(F, K, ...)`, about the clusters' means."""
    resp = _cluster_weights(weight, labels, num_components)
    means = _cluster_means(x, weight, labels, num_components)
    parts = []
    for f in range(int(fold.max()) + 1):
        rows, own = x[fold == f].unsqueeze(1), resp[fold == f].unsqueeze(1)
        chunks = [
            WeightedChunk(a, b, torch.zeros_like(b[..., 0]))
            for a, b in zip(rows.split(1024), own.split(1024), strict=True)
        ]
        parts.append(centred_statistics(family, means.unsqueeze(0), chunks))
    return SufficientStatistics.concatenate(parts)

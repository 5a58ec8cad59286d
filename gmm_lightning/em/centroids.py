"""Centroids of k-means of the rows, for priors that expect a mean near each of them."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers import KMeans, standardize
from gmm_lightning.rows import RowSource

# Rows that k-means reads.
_MAX_ROWS = 1 << 14
# Runs of k-means, of which the best is kept.
_NUM_STARTS = 4


@torch.no_grad()
def centroids(like: Tensor, source: RowSource, num_components: int) -> Tensor:
    """Centroids of k-means in standard units, `(*B, K, D)`, in the order of their first feature.

    Of many rows a sample is read, the same one in every process. Clusters that the rows are too
    few for have the mean of the rows.

    Args:
        like: of the features, `(*B, D)`, whose shape, dtype and device the centroids have.
        source: the rows `(N, *B, D)`, without missing entries.
        num_components: K.
    """
    rows = source.sample(max(_MAX_ROWS, 64 * num_components), Generator().manual_seed(0))
    *shape, d = like.shape
    x = rows.x.double().cpu().expand(rows.num_rows, *shape, d).reshape(rows.num_rows, -1, d)
    weight = torch.ones(x.shape[:-1], dtype=x.dtype)
    if rows.weight is not None:
        weight = rows.weight.double().cpu().expand(rows.num_rows, *shape).reshape(weight.shape)
    found = [_centroids(x[:, m], weight[:, m], num_components) for m in range(x.shape[1])]
    return torch.stack(found).reshape(*shape, num_components, d).to(like)


def _centroids(x: Tensor, weight: Tensor, num_components: int) -> Tensor:
    """Of rows `(N, D)` and weights `(N,)`."""
    x, weight = x[weight > 0], weight[weight > 0]
    # Neither the order of rows nor how weights are spelt matters.
    x, place = torch.unique(x, dim=0, return_inverse=True)
    weight = torch.zeros(len(x), dtype=x.dtype).index_add(0, place, weight)
    mean = (weight.unsqueeze(-1) * x).sum(0, keepdim=True) / weight.sum()
    number = min(num_components, len(x))
    start = Generator().manual_seed(0)
    labels = KMeans(num_starts=_NUM_STARTS).assign(standardize(x, weight), number, weight, start)
    share = torch.nn.functional.one_hot(labels, num_components).to(x) * weight.unsqueeze(-1)
    total = share.sum(0).unsqueeze(-1)
    # Differences to the mean: an offset of the rows costs no digits.
    means = mean + (share.T @ (x - mean)) / total.clamp(min=torch.finfo(x.dtype).tiny)
    means = torch.where(total > 0, means, mean)
    return means[means[:, 0].argsort(stable=True)]

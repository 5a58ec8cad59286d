"""Moments of all rows together, whatever the components are."""

from __future__ import annotations

import torch

from gmm_lightning.em.kernels import pooled_statistics
from gmm_lightning.em.source import Source
from gmm_lightning.statistics import SufficientStatistics


@torch.no_grad()
def whole_statistics(source: Source) -> SufficientStatistics:
    """Statistics of one component that holds every row, about the weighted mean.

    Two readings: the first finds the mean, which the second takes its differences from, so
    that neither an offset nor a row of weight 0 costs digits.
    """
    layer = source.layer
    zero = layer.means.detach().new_zeros(*layer.batch_shape, 1, layer.num_features)
    first = next(rows[0] for rows, _ in source if len(rows))
    about_first = pooled_statistics(layer, source, zero + first.to(zero).unsqueeze(-2))
    mean = about_first.shift + about_first.first / about_first.counts.unsqueeze(-1)
    return pooled_statistics(layer, source, mean.to(zero))

"""Moments of all rows in one component, for tied families and for priors without values."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gmm_lightning.em.centred_kernel import centred_statistics, single_component_chunks
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import Batch, RowSource
from gmm_lightning.statistics import SufficientStatistics


@torch.no_grad()
def pooled_statistics(source: RowSource, model: MixtureModel) -> SufficientStatistics:
    """Statistics `(M, ...)` of one component that holds every row, about the weighted mean.

    The rows are read twice: the first pass finds the mean, the second takes differences to it,
    so that neither an offset nor a row of weight 0 costs digits.
    """
    device = model.batch_index.device
    first = next(batch.x[:1] for batch in source if batch.num_rows)
    shift = model.per_mixture(first.to(device, accumulator_dtype(device)))[0].unsqueeze(1)
    about_first = pooled_statistics_about(source, model, shift)
    mean = shift + about_first.first / about_first.counts.unsqueeze(-1)
    return pooled_statistics_about(source, model, mean)


def pooled_statistics_about(
    batches: Iterable[Batch], model: MixtureModel, shift: Tensor
) -> SufficientStatistics:
    """Statistics of one component that holds every row, about a shift `(M, 1, D)`."""
    return centred_statistics(model.family, shift, single_component_chunks(batches, model, shift))

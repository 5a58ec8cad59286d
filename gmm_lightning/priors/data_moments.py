"""What priors take from the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.statistics import Moments, SufficientStatistics


@dataclass(frozen=True)
class DataMoments:
    """Mean and covariance of the data, for scale-aware defaults.

    Attributes:
        mean: weighted mean, `(*B, D)`.
        covariance: weighted covariance in the family's form, `(*B, 1, ...)`.
        center: medians of the features, `(*B, D)`; None: use the mean.
        target: a typical covariance of a component, `(*B, 1, ...)`; None: use the covariance.
        strength: rows that the target is worth, `(*B, 1)`; None: use one row.
        centroids: of k-means of the rows, `(*B, K, D)`; None: use the mean.
        variance: weighted variance of each feature, `(*B, D)`; None: no prior asked for it.
    """

    mean: Tensor
    covariance: Tensor
    center: Tensor | None = None
    target: Tensor | None = None
    strength: Tensor | None = None
    centroids: Tensor | None = None
    variance: Tensor | None = None

    @staticmethod
    def concatenate(parts: Sequence[DataMoments], order: Tensor) -> DataMoments:
        """The moments of several batches of mixtures `(B)` as one, in another order."""
        joined: dict[str, Any] = {}
        for f in fields(DataMoments):
            values = [getattr(part, f.name) for part in parts]
            joined[f.name] = None if values[0] is None else torch.cat(values)[order]
        return DataMoments(**joined)

    @classmethod
    def from_statistics(
        cls, stats: SufficientStatistics, covariance: str | Covariance
    ) -> DataMoments:
        """The moments from the statistics of one component that holds every row."""
        moments = Moments.from_statistics(stats, covariance)
        total = stats.total_weight.reshape(*stats.total_weight.shape, 1)
        tail = moments.scatter.dim() - total.dim()
        return cls(moments.means.squeeze(-2), moments.scatter / total[(..., *[None] * tail)])

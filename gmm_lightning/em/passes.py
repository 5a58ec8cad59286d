"""E-steps over one source, with the memory and the moments that they share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gmm_lightning.em.kernels import expected_statistics
from gmm_lightning.em.moments import whole_statistics
from gmm_lightning.em.posterior import Posterior, soft
from gmm_lightning.em.source import Source
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics


class Passes:
    """One pass over everything per call, for the source's layer or for several copies of it.

    Args:
        source: the rows.
        chunk_size: rows at a time; None: what stays in cache.
    """

    def __init__(self, source: Source, chunk_size: int | None = None) -> None:
        self.source = source
        self.workspace = Workspace(chunk_size)
        self.pooled = self._pooled()

    def _pooled(self) -> SufficientStatistics | None:
        """Moments of all rows in memory, for a family that shares its covariance."""
        layer, source = self.source.layer, self.source
        if not (layer.covariance.tied and source.in_memory):
            return None
        return whole_statistics(source)

    @torch.no_grad()
    def __call__(self, starts: GMMLayer, posterior: Posterior = soft) -> SufficientStatistics:
        """Statistics of a layer `(S, *B)`: S copies of the source's layer, from other starts."""
        return expected_statistics(
            starts,
            self._batches(),
            shared=self.source.shared,
            workspace=self.workspace,
            posterior=posterior,
            pooled=self.pooled,
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for rows, weight in self.source:
            yield rows.unsqueeze(1), None if weight is None else weight.unsqueeze(1)

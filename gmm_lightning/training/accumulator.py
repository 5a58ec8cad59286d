"""The statistics of a pass: summed over its batches, then over processes."""

from __future__ import annotations

from typing import Any

import torch

from gmm_lightning.em import e_step
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import Batch
from gmm_lightning.statistics import SufficientStatistics


class PassAccumulator:
    """Sums statistics over batches, and over processes in one reduction.

    Attributes:
        is_whole: whether every batch of the pass so far was seen.
        next_batch: index of the batch that is expected next.
        last_batch: the rows that were added last.
        dropped: rows left out of this pass, over all processes, up to the last reduction.
        log_scale: weighted sum of what the rows' units lack for missing entries, likewise.
    """

    def __init__(self) -> None:
        self.is_whole, self.next_batch, self.dropped, self.log_scale = False, 0, 0, 0.0
        self.last_batch = Batch(torch.zeros(0))
        self._stats: SufficientStatistics | None = None
        # The same of this process alone, since the last reduction.
        self._own_dropped, self._own_log_scale = 0, 0.0

    def start_batch(self, index: int) -> None:
        """Begin a batch; the first one begins a new sum, a pass without it stays incomplete."""
        if index == 0:
            self._stats, self._own_dropped, self.dropped = None, 0, 0
            self._own_log_scale = self.log_scale = 0.0
        self.is_whole = index == 0 or (self.is_whole and index == self.next_batch)
        self.next_batch = index + 1

    def add(
        self,
        stats: SufficientStatistics,
        batch: Batch,
        num_dropped: int = 0,
        log_scale: float = 0.0,
    ) -> None:
        """Add the statistics of a batch, of which `num_dropped` rows were left out.

        Args:
            stats: of the batch.
            batch: the rows.
            num_dropped: rows left out.
            log_scale: weighted sum of what the rows' units lack for missing entries.
        """
        self._stats = stats if self._stats is None else self._stats + stats
        self.last_batch = batch
        self._own_dropped += num_dropped
        self._own_log_scale += log_scale

    def reduce(self, strategy: Any, layer: GMMLayer) -> SufficientStatistics:
        """The statistics added since the last call, over all processes."""
        stats, self._stats = self._stats, None
        if stats is None:
            stats = e_step(layer, layer.means.new_empty(0, *layer.batch_shape, layer.num_features))
        own = stats.counts.new_tensor([self._own_dropped, self._own_log_scale])
        sums = strategy.reduce(torch.cat([stats.pack(), own]), reduce_op="sum")
        self.dropped += int(sums[-2])
        self.log_scale += float(sums[-1])
        self._own_dropped, self._own_log_scale = 0, 0.0
        return stats.unpack(sums[:-2])

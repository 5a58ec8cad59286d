"""E-steps over one source, with the memory and the moments that they share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gmm_lightning.em.kernels import expected_statistics
from gmm_lightning.em.moments import whole_statistics
from gmm_lightning.em.plan import make_plan
from gmm_lightning.em.posterior import Posterior, soft
from gmm_lightning.em.source import Source
from gmm_lightning.em.starts import chosen
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics, stacked


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
        """Statistics of a layer `(S, *B)`: S copies of the source's layer, from other starts.

        A start with a tight component needs more digits than the others; those that need the
        same go together, so that one does not slow down all.
        """
        plan = make_plan(starts, shared=self.source.shared)
        # A pass over a stream costs more than digits that some starts could do without.
        finer = plan is None or plan.natural.dtype != starts.means.dtype
        if finer and starts.batch_shape[0] > 1 and self.source.in_memory:
            alike = self._alike(starts)
            if len(alike) > 1:
                parts = [self(chosen(starts, index), posterior) for index in alike]
                return stacked(parts).chosen(torch.cat(alike).argsort())
        return expected_statistics(
            starts,
            plan,
            self._batches(),
            workspace=self.workspace,
            posterior=posterior,
            pooled=self.pooled,
        )

    def chosen(self, index: Tensor) -> None:
        """Go on with some of the starts: here they all read the same rows."""

    def _alike(self, starts: GMMLayer) -> list[Tensor]:
        """Numbers of the starts, grouped by the precision that they need."""
        number = starts.batch_shape[0]
        each = torch.arange(number).split(1)
        plans = [make_plan(chosen(starts, s), shared=self.source.shared) for s in each]
        kinds = [None if plan is None else plan.natural.dtype for plan in plans]
        groups = [[s for s in range(number) if kinds[s] == kind] for kind in dict.fromkeys(kinds)]
        return [torch.tensor(group) for group in groups]

    def _batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for rows, weight in self.source:
            yield rows.unsqueeze(1), None if weight is None else weight.unsqueeze(1)

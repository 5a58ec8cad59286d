"""One pass over rows: which kernel, and what the families that share a covariance need beside."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gmm_lightning.em.centred_kernel import centred_statistics, portions, whole
from gmm_lightning.em.feature_kernel import Units, feature_statistics
from gmm_lightning.em.plan import Plan
from gmm_lightning.em.posterior import Posterior, soft
from gmm_lightning.em.rows import chunks
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics

# Rows `(N, *B, D)` with their weights `(N, *B)` or None, batch after batch.
Batches = Iterable[tuple[Tensor, Tensor | None]]


@torch.no_grad()
def expected_statistics(
    layer: GMMLayer,
    plan: Plan | None,
    batches: Batches,
    *,
    workspace: Workspace | None = None,
    posterior: Posterior = soft,
    pooled: SufficientStatistics | None = None,
    units: Units | None = None,
) -> SufficientStatistics:
    """Statistics about the layer's means, under its current parameters.

    Args:
        layer: the mixture.
        plan: `make_plan` of its present parameters; None: differences are taken.
        batches: rows with their weights.
        workspace: buffers to use again; None: new ones.
        posterior: log joint densities to responsibilities.
        pooled: `pooled_statistics` of the same rows and weights, where they are known.
        units: a change of units of the rows, chunk by chunk.
    """
    workspace = workspace or Workspace()
    if plan is None:
        size = workspace.chunk_size
        parts = (part for x, w in batches for part in chunks(layer, x, w, size, units=units))
        shift = layer.means.detach().clone()
        return centred_statistics(layer.covariance, shift, portions(layer, parts, posterior))
    return feature_statistics(layer, plan, batches, workspace, posterior, pooled, units)


@torch.no_grad()
def pooled_statistics(layer: GMMLayer, batches: Batches, shift: Tensor) -> SufficientStatistics:
    """Moments of all rows in one component, about a shift `(*B, 1, D)`, whatever the parameters."""
    parts = (part for x, w in batches for part in chunks(layer, x, w, components=1))
    return centred_statistics(layer.covariance, shift, whole(layer, parts))

"""The two steps of EM for a layer: sums from rows, parameters from sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._messages import describe, format_too_large
from gmm_lightning.em.collapse import CollapseEvent
from gmm_lightning.em.event_log import CollapseCount
from gmm_lightning.em.expectation import split_statistics
from gmm_lightning.em.maximization import maximize
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import make_plan
from gmm_lightning.em.responsibilities import Responsibilities, softmax_responsibilities_
from gmm_lightning.em.uncertain_kernel import takes_marginals
from gmm_lightning.em.uncertain_rows import SplitRows, split_rows
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence import Evidence
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import (
    Batch,
    as_rows,
    as_tensor,
    as_weights,
    check_errors,
    check_finite,
    column_names,
    errors_of,
    is_shared,
    require_missing,
)
from gmm_lightning.statistics import SufficientStatistics


@torch.no_grad()
def e_step(
    layer: GMMLayer,
    x: Any,
    sample_weight: Any = None,
    *,
    missing: str | None = None,
    chunk_size: int | None = None,
    responsibilities: Responsibilities = softmax_responsibilities_,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> SufficientStatistics:
    """Expected sufficient statistics of rows under the layer's current parameters.

    Args:
        layer: the mixture.
        x: rows `(*S, *B, D)`, as `fit_em` takes them, or a `Batch` of them.
        sample_weight: not negative, broadcasts to `(*S, *B)`; a `Batch` holds its own.
        missing: None refuses NaN; `em` takes the expected moments of missing entries, given the
            observed ones. A `Batch` may hold errors of its rows: see `fit_em`.
        chunk_size: rows at a time; None: as many as stay in cache.
        responsibilities: how responsibilities follow from log joint densities:
            `softmax_responsibilities_`, `hard_responsibilities_`, or
            `tempered_responsibilities_(beta)` of `gmm_lightning.em`.
        transform: applied to the rows, such as a `Standardize`, to each chunk while it is in
            cache.

    Returns:
        Statistics that add over batches, ranks and machines.

    Raises:
        InvalidArgumentError: an unknown value of `missing`.
        InvalidDataError: wrong shape, bad weights or errors, or rows that are not finite (by
            number).

    References:
        R. M. Neal, G. E. Hinton (1998), A view of the EM algorithm that justifies incremental,
        sparse, and other variants.

    Example:
        >>> layer = GMMLayer(2, 3)
        >>> stats = e_step(layer, torch.randn(10, 2)) + e_step(layer, torch.randn(5, 2))
        >>> int(stats.num_samples), round(float(stats.counts.sum()), 6)
        (15, 15.0)
    """
    batch = x if isinstance(x, Batch) else Batch(x, sample_weight)
    names, batch = column_names(batch.x), batch._replace(x=as_tensor(batch.x))
    rows = as_rows(batch.x, layer.num_features, layer.batch_shape)
    weight = as_weights(batch.weight, batch.x, layer.batch_shape)
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    plan = make_plan(model, parameters, len(rows), shared=is_shared(rows))
    workspace, batch = Workspace(chunk_size), batch._replace(x=rows, weight=weight)
    if isinstance(layer.evidence, Evidence):
        layer.evidence.check_rows(batch)
    if errors_of(batch) is not None:
        check_finite(rows, columns=names, missing=missing)
        check_errors(batch)
    parts = [SplitRows(batch, ())]
    if require_missing(missing) is not None or errors_of(batch) is not None:
        apart = takes_marginals(model)
        parts = [split_rows(batch, layer.batch_shape, apart=apart, transform=transform)]
    if transform is not None:
        parts = _transformed(parts[0], transform, workspace.rows_per_chunk(plan, parameters))
    stats = split_statistics(
        model, parameters, plan, parts, workspace=workspace, responsibilities=responsibilities
    )
    if not bool(torch.isfinite(stats.log_likelihood).all()):
        check_finite(rows, columns=names, missing=missing)
        what = f"the log-likelihood is {describe(stats.log_likelihood.tolist())}: the rows are"
        raise InvalidDataError(format_too_large(what, layer.means.dtype))
    return stats.reshape(layer.batch_shape)


def _transformed(
    rows: SplitRows, transform: Callable[[Tensor], Tensor], size: int
) -> Iterator[SplitRows]:
    """The complete rows with x transformed, a chunk at a time, and the others as they are."""
    for part in rows.complete.split(size):
        yield SplitRows(part._replace(x=transform(part.x)), ())
    yield SplitRows(rows.complete.at(slice(0)), rows.uncertain)


@torch.no_grad()
def m_step(layer: GMMLayer, stats: SufficientStatistics) -> list[CollapseEvent | CollapseCount]:
    """Write the parameters that maximise the expected objective, in place.

    The priors add their pseudo-observations, the layer's projections apply in order, the floor
    bounds the covariances from below, and the family estimates its scale.

    Args:
        layer: the mixture that the statistics were taken under.
        stats: from `e_step`, summed over batches, ranks and machines.

    Returns:
        The components that had to be repaired, usually none.

    Raises:
        InvalidArgumentError: the statistics are of another shape or family.
        InvalidDataError: they hold no rows, or are not finite.
        CollapseError: a covariance is singular and `relative_floor` is 0.

    Example:
        >>> layer = GMMLayer(2, 1)
        >>> m_step(layer, e_step(layer, torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])))
        []
        >>> layer.means
        Parameter containing:
        tensor([[1., 1.]], requires_grad=True)
    """
    if stats.shift.shape != layer.means.shape:
        raise InvalidArgumentError(
            f"the statistics are of shape {tuple(stats.shift.shape)}, the layer's means of shape "
            f"{tuple(layer.means.shape)}"
        )
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    step = maximize(model, parameters, stats.reshape((parameters.num_mixtures,)))
    return step.write_to(layer)

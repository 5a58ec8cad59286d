"""Before the first E-step: prior values from the data, and parameters from assignments."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import as_generator
from gmm_lightning.covariances import DiagCovariance
from gmm_lightning.em.assignment import assigned_statistics, with_pooled_rows
from gmm_lightning.em.centroids import centroids
from gmm_lightning.em.collapse import CollapseEvent
from gmm_lightning.em.covariance_target import with_targets
from gmm_lightning.em.event_log import CollapseCount
from gmm_lightning.em.frozen_start import match_frozen, order_centres
from gmm_lightning.em.known_rows import KnownRows, known_rows
from gmm_lightning.em.labelled_rows import check_evidence
from gmm_lightning.em.labelled_start import assign_classes, sample_classes
from gmm_lightning.em.local_scale import local_scale
from gmm_lightning.em.marked_rows import with_start_weight, without_marked
from gmm_lightning.em.maximization import MStepResult, maximize
from gmm_lightning.em.model import MixtureModel, require_values, with_closed_forms
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.pooled import pooled_statistics
from gmm_lightning.em.responsibilities import ASSIGNMENTS
from gmm_lightning.em.row_assignment import assign_rows, with_weights
from gmm_lightning.evidence import labels_of
from gmm_lightning.initializers import Given, Initializer, Mixed
from gmm_lightning.initializers import registry as initializer_registry
from gmm_lightning.layers import GMMLayer
from gmm_lightning.priors import DataMoments
from gmm_lightning.rows import Batch, RowSource, as_source, as_tensor
from gmm_lightning.statistics import SufficientStatistics

# An initializer sees a random sample of max(256, 8 D) rows per component, within these bounds in
# total.
_MIN_ROWS, _MAX_ROWS = 1 << 14, 1 << 17
# Complete rows for each component and feature that are enough for the targets of covariances.
_ROWS_PER_TARGET = 8


def as_initializer(spec: Any) -> Initializer:
    """An initializer from a name, an instance, a list of them, or given assignments."""
    if isinstance(spec, str | Initializer):
        return initializer_registry.create(spec)
    several = isinstance(spec, list | tuple) and len(spec) > 0
    if several and all(isinstance(one, str | Initializer) for one in spec):
        return Mixed([initializer_registry.create(one) for one in spec])
    return Given(as_tensor(spec, "initializer"))


def resolve_priors(
    layer: GMMLayer, x: Any, sample_weight: Any = None, *, missing: str | None = None
) -> None:
    """Give the priors the values that follow from the data, as `fit_em` does.

    Args:
        layer: the mixture; hyper-parameters given by the user keep their values.
        x: rows or a re-iterable of batches, as for `fit_em`.
        sample_weight: weights for rows in memory.
        missing: None refuses NaN; `em` reads what is observed.

    Raises:
        InvalidDataError: as `fit_em`, or rows whose squares overflow.

    Example:
        >>> layer = GMMLayer(2, 3, priors="niw")
        >>> resolve_priors(layer, torch.randn(50, 2))
        >>> layer.log_prior().shape
        torch.Size([])
    """
    source = layer_source(layer, x, sample_weight, missing=missing)
    resolve_from(layer, source, known_rows(layer, source))
    order_centres(layer)


@torch.no_grad()
def initialize_layer(
    layer: GMMLayer,
    x: Any,
    initializer: Any = "mixed",
    sample_weight: Any = None,
    *,
    missing: str | None = None,
    generator: Generator | int | None = None,
) -> list[CollapseEvent | CollapseCount]:
    """Set the parameters of a layer and the values of its priors as at the start of `fit_em`.

    Args:
        layer: written in place.
        x: rows or a re-iterable of batches, as for `fit_em`.
        initializer: a name, an instance, labels `(N,)` or responsibilities `(N, K)`.
        sample_weight: weights for rows in memory.
        missing: None refuses NaN; `em` starts from rows in which the conditional means of one
            Gaussian stand for missing entries.
        generator: source of randomness, or a seed; None: torch's global one.

    Returns:
        The components that had to be repaired.

    Raises:
        InvalidDataError: as `fit_em`.
        CollapseError: a covariance is singular and `relative_floor` is 0.

    Example:
        >>> layer = GMMLayer(2, 3)
        >>> initialize_layer(layer, torch.randn(50, 2))
        []
    """
    generator = as_generator(generator, layer.means.device)
    source = layer_source(layer, x, sample_weight, missing=missing)
    check_evidence(layer, source)
    known = known_rows(layer, source)
    resolve_from(layer, source, known)
    model, present = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    return initialize(model, present, known, initializer, generator).write_to(layer)


def layer_source(
    layer: GMMLayer,
    x: Any,
    sample_weight: Any = None,
    *,
    missing: str | None = None,
    error_covariance: Any = None,
) -> RowSource:
    """Checked rows for a layer: see `gmm_lightning.rows.as_source`."""
    return as_source(
        x,
        sample_weight,
        num_features=layer.num_features,
        batch_shape=layer.batch_shape,
        missing=missing,
        error_covariance=error_covariance,
    )


def is_resolved(layer: GMMLayer) -> bool:
    """Whether nothing of a layer waits for data: neither its local scale, noise nor a prior."""
    known = not bool(torch.isnan(layer.local_scale).any())
    known = known and (layer.noise is None or layer.noise.resolved)
    return known and all(prior.resolved for prior in layer.all_priors)


@torch.no_grad()
def resolve_from(layer: GMMLayer, source: RowSource, known: RowSource) -> None:
    """Give the layer its local scale and the priors their values.

    Args:
        layer: written in place.
        source: checked rows.
        known: the same rows, without missing entries.
    """
    require_values(layer)
    for projection in layer.projections.to_list():
        projection.check(source)
    set_local_scale(layer, local_scale(source, layer.means.dtype))
    if layer.noise is not None:
        layer.noise.resolve(source)
    if not layer.all_priors:
        return
    moments = data_moments(MixtureModel.from_layer(layer), known, layer.num_components)
    for prior in layer.all_priors:
        prior.resolve(moments, layer.num_components)


def set_local_scale(layer: GMMLayer, scale: Tensor, index: Any = ...) -> None:
    """Give the mixtures at an index of a layer a local scale `(*B, D)`.

    Without a floor, a constant feature is one like the others: only `reg_covar` or a prior keeps
    its variance above 0.
    """
    if layer.covariance.relative_floor == 0:
        scale = torch.where(scale > 0, scale, 1.0)
    layer.local_scale[index] = scale.to(layer.local_scale)


def data_moments(model: MixtureModel, source: RowSource, num_components: int) -> DataMoments:
    """What the priors of a model take from the rows, batch shape B."""
    moments = DataMoments.from_statistics(_pooled(model, source), model.family)
    if any(prior.uses_variances for prior in model.priors):
        moments = replace(moments, variance=_variances(model, source, moments))
    if any(prior.uses_centroids for prior in model.priors):
        moments = replace(moments, centroids=centroids(moments.mean, source, num_components))
    if not any(prior.uses_target for prior in model.priors):
        return moments
    if isinstance(source, KnownRows):
        source = source.complete_rows(_ROWS_PER_TARGET * num_components * (source.num_features + 1))
    return with_targets(moments, source, model.local_scale, num_components, model.family)


def _pooled(model: MixtureModel, source: RowSource) -> SufficientStatistics:
    """Statistics of one component that holds every row, batch shape B."""
    if isinstance(source, KnownRows):
        stats = source.pooled_statistics(model.family)
    else:
        stats = pooled_statistics(source, model)
    return stats.reshape(model.batch_shape)


def _variances(model: MixtureModel, source: RowSource, moments: DataMoments) -> Tensor:
    """The variance of each feature, `(*B, D)`, which spherical families do not have."""
    num_features = moments.mean.shape[-1]
    if math.prod(model.family.shape(1, num_features)) >= num_features:
        return model.family.variances(moments.covariance, num_features).squeeze(-2)
    diagonal = replace(model, family=DiagCovariance())
    whole = DataMoments.from_statistics(_pooled(diagonal, source), diagonal.family)
    return whole.covariance.squeeze(-2)


@torch.no_grad()
def initialize(
    model: MixtureModel,
    present: MixtureParameters,
    source: RowSource,
    spec: Any,
    generator: Generator | None,
) -> MStepResult:
    """Parameters from assignments of rows to components, by one M-step.

    Arguments are as for `start_statistics`.
    """
    stats, mean_weight = start_statistics(model, present, source, spec, generator)
    marked = stats.noise
    # Priors without a closed form have no part in an M-step: a gradient fit goes on from here.
    model = with_closed_forms(model)
    step = maximize(model, present, with_pooled_rows(stats, model.family, mean_weight))
    return with_start_weight(model, step, marked)


@torch.no_grad()
def start_statistics(
    model: MixtureModel,
    present: MixtureParameters,
    source: RowSource,
    spec: Any,
    generator: Generator | None,
) -> tuple[SufficientStatistics, Tensor]:
    """Statistics of assigned rows `(M, ...)`, and the mean weight of a row, `(M,)`.

    Args:
        model: of M mixtures, restarts times the layer's batch.
        present: parameters to be replaced.
        source: the rows; an initializer sees a sample of them.
        spec: the initializer.
        generator: source of randomness of the sample and the initializer.

    Raises:
        InvalidDataError: fewer rows than components.
    """
    initializer = as_initializer(spec)
    _, k, d = present.means.shape
    limit = source.num_rows
    if not isinstance(initializer, Given):
        limit = min(_MAX_ROWS, max(_MIN_ROWS, k * max(256, 8 * d)))
        limit = min(limit, source.num_rows, initializer.max_rows(k) or limit)
    labels = None if isinstance(initializer, Given) else labels_of(model.evidence)
    if labels is None:
        rows = with_weights(model, source.sample(limit, generator))
        given = assign_rows(model, initializer, rows, k, generator)
    else:
        rows = with_weights(model, sample_classes(labels, source, limit, generator))
        given = assign_classes(labels, model, initializer, rows, generator)
    assert rows.weight is not None
    if labels is None and not isinstance(initializer, Given):
        given = match_frozen(model, present, rows.x, rows.weight, given)
    rows = Batch(rows.x, rows.weight, extra={ASSIGNMENTS: given})
    assert rows.weight is not None
    positive = (rows.weight > 0).sum(0)
    mean_weight = model.per_mixture(rows.weight.sum(0, keepdim=True) / positive)[0]
    rows, marked = without_marked(model, rows)
    return replace(assigned_statistics(model, present, rows), noise=marked), mean_weight

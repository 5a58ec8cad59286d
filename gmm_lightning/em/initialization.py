"""Before the first E-step: prior values from the data, and parameters from assignments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._validation import as_generator, require_enough_rows
from gmm_lightning.em.assignment import assigned_statistics, with_pooled_rows
from gmm_lightning.em.collapse import CollapseEvent
from gmm_lightning.em.covariance_target import with_targets
from gmm_lightning.em.event_log import CollapseCount
from gmm_lightning.em.frozen_start import match_frozen
from gmm_lightning.em.local_scale import local_scale
from gmm_lightning.em.maximization import MStepResult, maximize
from gmm_lightning.em.model import MixtureModel, require_values
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.pooled import pooled_statistics
from gmm_lightning.em.responsibilities import ASSIGNMENTS
from gmm_lightning.initializers import Given, Initializer, Mixed, standardize
from gmm_lightning.initializers import registry as initializer_registry
from gmm_lightning.layers import GMMLayer
from gmm_lightning.priors import DataMoments
from gmm_lightning.rows import Batch, RowSource, as_source, as_tensor

# An initializer sees a random sample of max(256, 8 D) rows per component, within these bounds in
# total.
_MIN_ROWS, _MAX_ROWS = 1 << 14, 1 << 17


def as_initializer(spec: Any) -> Initializer:
    """An initializer from a name, an instance, a list of them, or given assignments."""
    if isinstance(spec, str | Initializer):
        return initializer_registry.create(spec)
    several = isinstance(spec, list | tuple) and len(spec) > 0
    if several and all(isinstance(one, str | Initializer) for one in spec):
        return Mixed([initializer_registry.create(one) for one in spec])
    return Given(as_tensor(spec, "initializer"))


def resolve_priors(layer: GMMLayer, x: Any, sample_weight: Any = None) -> None:
    """Give the priors the values that follow from the data, as `fit_em` does.

    Args:
        layer: the mixture; hyper-parameters given by the user keep their values.
        x: rows or a re-iterable of batches, as for `fit_em`.
        sample_weight: weights for rows in memory.

    Raises:
        InvalidDataError: as `fit_em`, or rows whose squares overflow.

    Example:
        >>> layer = GMMLayer(2, 3, priors="niw")
        >>> resolve_priors(layer, torch.randn(50, 2))
        >>> layer.log_prior().shape
        torch.Size([])
    """
    resolve_from(layer, layer_source(layer, x, sample_weight))


@torch.no_grad()
def initialize_layer(
    layer: GMMLayer,
    x: Any,
    initializer: Any = "mixed",
    sample_weight: Any = None,
    *,
    generator: Generator | int | None = None,
) -> list[CollapseEvent | CollapseCount]:
    """Set the parameters of a layer and the values of its priors as at the start of `fit_em`.

    Args:
        layer: written in place.
        x: rows or a re-iterable of batches, as for `fit_em`.
        initializer: a name, an instance, labels `(N,)` or responsibilities `(N, K)`.
        sample_weight: weights for rows in memory.
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
    source = layer_source(layer, x, sample_weight)
    resolve_from(layer, source)
    model, present = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    return initialize(model, present, source, initializer, generator).write_to(layer)


def layer_source(layer: GMMLayer, x: Any, sample_weight: Any = None) -> RowSource:
    """Checked rows for a layer: see `gmm_lightning.rows.as_source`."""
    return as_source(
        x, sample_weight, num_features=layer.num_features, batch_shape=layer.batch_shape
    )


def is_resolved(layer: GMMLayer) -> bool:
    """Whether nothing of a layer waits for data: neither its local scale nor a prior."""
    known = not bool(torch.isnan(layer.local_scale).any())
    return known and all(prior.resolved for prior in layer.all_priors)


@torch.no_grad()
def resolve_from(layer: GMMLayer, source: RowSource) -> None:
    """Give the layer its local scale and the priors their values, from a checked source."""
    require_values(layer)
    scale = local_scale(source, layer.means.dtype)
    layer.local_scale.copy_(scale.expand_as(layer.local_scale))
    if not layer.all_priors:
        return
    moments = data_moments(MixtureModel.from_layer(layer), source, layer.num_components)
    for prior in layer.all_priors:
        prior.resolve(moments, layer.num_components)


def data_moments(model: MixtureModel, source: RowSource, num_components: int) -> DataMoments:
    """What the priors of a model take from the rows, batch shape B."""
    stats = pooled_statistics(source, model).reshape(model.batch_shape)
    moments = DataMoments.from_statistics(stats, model.family)
    if not any(prior.uses_target for prior in model.priors):
        return moments
    return with_targets(moments, source, model.local_scale, num_components, model.family)


@torch.no_grad()
def initialize(
    model: MixtureModel,
    present: MixtureParameters,
    source: RowSource,
    spec: Any,
    generator: Generator | None,
) -> MStepResult:
    """Parameters from assignments of rows to components, by one M-step.

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
    rows = source.sample(limit, generator)
    weight = rows.weight
    if weight is None:
        weight = torch.ones(rows.num_rows, *model.batch_shape, dtype=torch.float64)
    assignments = _assign_rows(model, initializer, rows.x, weight, k, generator)
    if not isinstance(initializer, Given):
        assignments = match_frozen(model, present, rows.x, weight, assignments)
    rows = Batch(rows.x, weight, extra={ASSIGNMENTS: assignments})
    stats = assigned_statistics(model, present, rows)
    mean_weight = model.per_mixture(weight.sum(0, keepdim=True) / (weight > 0).sum(0))[0]
    return maximize(model, present, with_pooled_rows(stats, model.family, mean_weight))


def _assign_rows(
    model: MixtureModel,
    initializer: Initializer,
    rows: Tensor,
    weight: Tensor,
    num_components: int,
    generator: Generator | None,
) -> Tensor:
    """Labels `(N, M)` or responsibilities `(N, M, K)`, for many mixtures of the batch at a time."""
    single = model.single_restart()
    x, w = single.per_mixture(rows), single.per_mixture(weight.to(rows.device, torch.float64))
    num_restarts = len(model.batch_index) // len(single.batch_index)
    # Rows, their features and distances, which each start of several mixtures has of its own.
    numbers = num_restarts * len(rows) * (3 * rows.shape[-1] + num_components + 8)
    size = rows_per_chunk(numbers, w, in_cache=False)
    parts = [
        _assign_mixtures(initializer, some, own, num_components, num_restarts, generator)
        for some, own in zip(x.split(size, 1), w.T.split(size), strict=True)
    ]
    # Restarts first: (N, R, B) -> (N, M).
    joined = torch.cat(parts, 2)
    return joined.reshape(len(rows), -1, *joined.shape[3:])


def _assign_mixtures(
    initializer: Initializer,
    x: Tensor,
    weight: Tensor,
    num_components: int,
    num_restarts: int,
    generator: Generator | None,
) -> Tensor:
    """Labels `(N, R, B)` or responsibilities of rows `(N, B, D)` with weights `(B, N)`."""
    x, used = x.movedim(1, 0), weight > 0
    # Given assignments are for all rows; the others see those of positive weight.
    keeps_all = isinstance(initializer, Given) or bool(used.all())
    fewest = x.shape[1] if keeps_all else int(used.sum(-1).min())
    require_enough_rows(fewest, num_components)
    if keeps_all:
        z = standardize(x.to(torch.float64), weight)
        given = initializer.assign_many(z, num_components, weight, num_restarts, generator)
        return given.movedim((2, 1), (0, 1))
    # Rows of weight 0 last; those that fill up short sets repeat the first row, which is finite.
    place = used.int().argsort(dim=-1, descending=True, stable=True)[:, : int(used.sum(-1).max())]
    every, w = torch.arange(len(x), device=x.device), weight.gather(1, place)
    own = torch.where(w > 0, place, place[:, :1])
    z = standardize(x[every.unsqueeze(-1), own].to(torch.float64), w)
    given = initializer.assign_many(z, num_components, w, num_restarts, generator)
    assigned = given.new_zeros(x.shape[1], len(x), num_restarts, *given.shape[3:])
    assigned[place.T, every] = given.movedim(2, 0)
    assigned[~used.T] = 0
    return assigned.movedim(2, 1)

"""Before the first E-step: what the priors take from the data, and one M-step from assignments."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.kernels import Portion, centred_statistics
from gmm_lightning.em.rows import as_tensor, chunks
from gmm_lightning.em.source import Source
from gmm_lightning.em.steps import m_step
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.initializers import Given, Initializer
from gmm_lightning.initializers import registry as initializer_registry
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.statistics import DataMoments, Moments, SufficientStatistics

# An initializer sees at most this many rows, drawn at random from all of them.
INITIAL_ROWS = 1 << 17


def as_initializer(spec: Any) -> Initializer:
    """An initializer from a name, an instance, or given labels or responsibilities."""
    if isinstance(spec, str | Initializer):
        return initializer_registry.create(spec)
    return Given(as_tensor(spec, "initializer"))


def resolve_priors(layer: GMMLayer, x: Any, sample_weight: Any = None) -> None:
    """Give the priors the values that follow from the data, as `fit_em` does.

    Args:
        layer: the mixture whose priors have open values.
        x: rows, or a re-iterable of batches.
        sample_weight: weights for rows in memory.

    Example:
        >>> layer = GMMLayer(2, 3, priors="niw")
        >>> resolve_priors(layer, torch.randn(50, 2))
        >>> layer.log_prior().shape
        torch.Size([])
    """
    resolve_from(layer, Source(layer, x, sample_weight))


@torch.no_grad()
def resolve_from(layer: GMMLayer, source: Source) -> None:
    """`resolve_priors` for a source that has been read and checked."""
    if not len(layer.priors):
        return
    # Weighted mean first, then moments about it.
    zero = layer.means.new_zeros(*layer.batch_shape, 1, layer.num_features)
    first = next(rows[0] for rows in source.batches() if len(rows))
    about_first = data_moments(source, zero + first.to(zero).unsqueeze(-2))
    moments = data_moments(source, about_first.mean.unsqueeze(-2).to(zero))
    for prior in layer.all_priors:
        prior.resolve(moments, layer.num_components)


def data_moments(source: Source, shift: Tensor) -> DataMoments:
    """Mean and covariance of all rows, from sums about a shift `(*B, 1, D)`."""
    family = source.layer.covariance
    return DataMoments.from_statistics(centred_statistics(family, shift, whole(source)), family)


def whole(source: Source) -> Iterator[Portion]:
    """Every row in one component."""
    for x, weight in source.chunks():
        ones = x.new_ones(x.shape[0], *source.layer.batch_shape) if weight is None else weight
        yield x, ones.unsqueeze(-1), ones


@torch.no_grad()
def initialize(
    layer: GMMLayer, source: Source, spec: Any, generator: Generator | None
) -> list[Collapse]:
    """Assign rows to components and turn the assignments into parameters by one M-step.

    Raises:
        InvalidDataError: fewer rows than components.
    """
    initializer = as_initializer(spec)
    limit = source.num_rows if isinstance(initializer, Given) else INITIAL_ROWS
    rows, weight = source.sample(limit, generator)
    if weight is None:
        weight = torch.ones(len(rows), *layer.batch_shape, dtype=torch.float64)
    resp = assign_rows(layer, initializer, rows, weight, generator)
    return m_step(layer, assigned_statistics(layer, rows, weight, resp))


def assign_rows(
    layer: GMMLayer,
    initializer: Initializer,
    rows: Tensor,
    weight: Tensor,
    generator: Generator | None,
) -> Tensor:
    """Labels `(N, *B)` or responsibilities `(N, *B, K)`, one mixture of the batch at a time."""
    per_mixture = []
    spread = rows.expand(len(rows), *layer.batch_shape, layer.num_features)
    for index in itertools.product(*map(range, layer.batch_shape)):
        at = (slice(None), *index)
        w = weight[at].to(rows.device, torch.float64)
        keep = w > 0 if not isinstance(initializer, Given) else torch.ones_like(w, dtype=torch.bool)
        x, w = spread[at][keep].to(torch.float64), w[keep]
        if len(x) < layer.num_components:
            raise InvalidDataError(
                f"num_components={layer.num_components} is larger than the number of rows, {len(x)}"
            )
        given = initializer.assign(standard_units(x, w), layer.num_components, w, generator)
        result = given.new_zeros(len(rows), *given.shape[1:])
        result[keep] = given
        per_mixture.append(result)
    stacked = torch.stack(per_mixture, 1)
    return stacked.reshape(len(rows), *layer.batch_shape, *stacked.shape[2:])


def standard_units(x: Tensor, weight: Tensor) -> Tensor:
    """Rows centred and scaled to unit variance per feature; a constant column becomes zero."""
    weight = (weight / weight.sum()).unsqueeze(-1)
    x = x - (weight * x).sum(0)
    x = x - (weight * x).sum(0)
    scale = (weight * x.square()).sum(0).sqrt()
    return x / torch.where(scale > 0, scale, 1.0)


def assigned_statistics(
    layer: GMMLayer, rows: Tensor, weight: Tensor, assignments: Tensor
) -> SufficientStatistics:
    """Statistics under fixed assignments, about the means that these give."""
    hard = not assignments.is_floating_point()

    def portions() -> Iterator[Portion]:
        start = 0
        for x, w in chunks(layer, rows, weight):
            part = assignments[start : start + len(x)].to(x.device)
            start += len(x)
            if hard:
                part = torch.nn.functional.one_hot(part, layer.num_components)
            w = x.new_ones(()) if w is None else w.to(x)
            yield x, part.to(x) * w.unsqueeze(-1), torch.zeros_like(w)

    family = layer.covariance
    centre = rows.to(accumulator_dtype(rows.device)).mean(0).unsqueeze(-2).to(layer.means)
    about_centre = centred_statistics(family, centre.expand(layer.means.shape), portions())
    means = Moments.from_statistics(about_centre, family).means.to(layer.means)
    return centred_statistics(family, means, portions())

"""Before the first E-step: what the priors take from the data, and one M-step from assignments."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning.em.centred_kernel import Portion, centred_statistics
from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.feature_kernel import feature_statistics
from gmm_lightning.em.moments import whole_statistics
from gmm_lightning.em.plan import LARGEST, make_plan
from gmm_lightning.em.rows import as_tensor, chunks, is_shared
from gmm_lightning.em.source import Source
from gmm_lightning.em.starts import empty_like
from gmm_lightning.em.steps import m_step
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.initializers import Given, Initializer
from gmm_lightning.initializers import registry as initializer_registry
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.statistics import DataMoments, Moments, SufficientStatistics

# An initializer sees a sample of the rows, drawn at random: several times what the means and
# covariances of its components are made of, within these bounds.
FEWEST_ROWS, MOST_ROWS = 1 << 14, 1 << 17


def initial_rows(layer: GMMLayer) -> int:
    """Rows that an initializer sees at most."""
    enough = layer.num_components * max(256, 8 * layer.num_features)
    return min(MOST_ROWS, max(FEWEST_ROWS, enough))


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
    moments = DataMoments.from_statistics(whole_statistics(source), layer.covariance)
    for prior in layer.all_priors:
        prior.resolve(moments, layer.num_components)


@torch.no_grad()
def initialize(
    starts: GMMLayer, source: Source, spec: Any, generator: Generator | None
) -> list[Collapse]:
    """Assign rows to components and turn the assignments into parameters by one M-step.

    Args:
        starts: what is written: the source's layer, or copies of it `(S, *B)`.
        source: the rows; an initializer sees a sample of them.
        spec: the initializer.
        generator: of the sample and the initializer.

    Raises:
        InvalidDataError: fewer rows than components.
    """
    initializer = as_initializer(spec)
    limit = source.num_rows
    if not isinstance(initializer, Given):
        limit = initial_rows(source.layer)
        limit = min(limit, initializer.max_rows(starts.num_components) or limit)
    rows, weight = source.sample(limit, generator)
    if weight is None:
        weight = torch.ones(len(rows), *source.layer.batch_shape, dtype=torch.float64)
    assignments = assign_rows(starts, source.layer, initializer, rows, weight, generator)
    if starts is not source.layer:
        rows, weight = rows.unsqueeze(1), weight.unsqueeze(1)
    return m_step(starts, assigned_statistics(starts, rows, weight, assignments))


def assign_rows(
    starts: GMMLayer,
    layer: GMMLayer,
    initializer: Initializer,
    rows: Tensor,
    weight: Tensor,
    generator: Generator | None,
) -> Tensor:
    """Labels `(N, S, *B)` or responsibilities `(N, S, *B, K)`, one mixture of B at a time.

    S is left out where the starts are the layer itself.
    """
    number = starts.batch_shape.numel() // layer.batch_shape.numel()
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
        x = standard_units(x, w)
        given = initializer.assign_many(x, layer.num_components, w, number, generator)
        result = given.new_zeros(number, len(rows), *given.shape[2:])
        result[:, keep] = given
        per_mixture.append(result.movedim(1, 0))
    stacked = torch.stack(per_mixture, 2)
    return stacked.reshape(len(rows), *starts.batch_shape, *stacked.shape[3:])


def standard_units(x: Tensor, weight: Tensor) -> Tensor:
    """Rows centred and scaled to unit variance per feature; a constant column becomes zero."""
    weight = (weight / weight.sum()).unsqueeze(-1)
    x = x - (weight * x).sum(0)
    x = x - (weight * x).sum(0)
    scale = (weight * x.square()).sum(0).sqrt()
    return x / torch.where(scale > 0, scale, 1.0)


class Assigned:
    """Responsibilities that are given, for rows that are read once and in order.

    Args:
        assignments: labels `(N, *B)`, or responsibilities `(N, *B, K)`.
        num_components: K.
    """

    def __init__(self, assignments: Tensor, num_components: int) -> None:
        self.hard = not assignments.is_floating_point()
        tail = () if self.hard else (num_components,)
        columns = assignments.reshape(len(assignments), -1, *tail)
        self.columns = columns.movedim(0, -1)
        self.start = 0

    def __call__(self, log_joint: Tensor, dim: int) -> Tensor:
        """Overwrite log joint densities `(B, K, n)`."""
        stop = self.start + log_joint.shape[-1]
        part = self.columns[..., self.start : stop].to(log_joint.device)
        self.start = stop
        if self.hard:
            log_joint.zero_().scatter_(dim, part.unsqueeze(dim), 1.0)
        else:
            log_joint.copy_(part)
        return log_joint.new_zeros(log_joint.shape[0], log_joint.shape[-1])


def assigned_statistics(
    starts: GMMLayer, rows: Tensor, weight: Tensor, assignments: Tensor
) -> SufficientStatistics:
    """Statistics under fixed assignments, in float64, about the mean of all rows.

    Where the components are so tight and far apart that this loses digits, differences to each
    component's own mean are taken.
    """
    family, wide = starts.covariance, accumulator_dtype(starts.means.device)
    whole = empty_like(starts, tuple(starts.batch_shape), wide)
    x, share = rows.to(whole.means), (weight / weight.sum(0)).to(whole.means).unsqueeze(-1)
    centre = (share * x).sum(0)
    centre = centre + (share * (x - centre)).sum(0)
    variance = (share * (x - centre).square()).sum(0)
    variance = torch.where(variance > 0, variance, 1.0).unsqueeze(-2).expand(whole.means.shape)
    groups = family.groups(starts.num_components)
    projected = family.project(variance[..., :groups, :].diag_embed())
    scale = family.estimate(projected, torch.ones_like(variance[..., :groups, 0]))
    whole.write(torch.ones_like(whole.mixture_logits), centre.unsqueeze(-2), scale)
    whole.evidence = None
    plan = make_plan(whole, shared=is_shared(rows))
    means = whole.means.detach()
    if plan is not None:
        given = Assigned(assignments, starts.num_components)
        stats = feature_statistics(whole, plan, [(rows, weight)], Workspace(), given)
        moments = Moments.from_statistics(stats, family)
        means = moments.means
        within = family.variances(moments.scatter, starts.num_features)
        within = within / family.sum_tied(stats.counts).clamp(min=1e-300).unsqueeze(-1)
        between = (means - whole.means).square()
        if bool((between <= LARGEST[wide] * within).all()):
            return stats
    portions = assigned_portions(whole, rows, weight, assignments)
    return centred_statistics(family, means, portions)


def assigned_portions(
    layer: GMMLayer, rows: Tensor, weight: Tensor, assignments: Tensor
) -> Iterator[Portion]:
    """Chunks of rows with responsibilities from given assignments."""
    start = 0
    for x, w in chunks(layer, rows, weight):
        part = assignments[start : start + len(x)].to(x.device)
        start += len(x)
        if not part.is_floating_point():
            part = torch.nn.functional.one_hot(part, layer.num_components)
        w = x.new_ones(()) if w is None else w.to(x)
        yield x, part.to(x) * w.unsqueeze(-1), torch.zeros_like(w)

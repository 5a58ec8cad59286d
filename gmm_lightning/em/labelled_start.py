"""The start of EM from labels: the components of a class begin at the rows of the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.row_assignment import assign_rows
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.evidence import UNKNOWN, Labels
from gmm_lightning.initializers import Initializer
from gmm_lightning.rows import Batch, RowSource


def sample_classes(
    labels: Labels, source: RowSource, limit: int, generator: Generator | None
) -> Batch:
    """All rows, or a sample of about `limit` of them in which no class is lost.

    All of them in memory, too, if each is known to be of a single component.
    Rows of a class that is drawn more often weigh less.
    """
    if source.num_rows <= limit:
        return source.sample(limit, generator)
    named = torch.cat([_named(labels, batch) for batch in source])
    settled = labels.num_classes == labels.num_components and bool((named != UNKNOWN).all())
    if settled and source.in_memory:
        # Nothing is left to an initializer: the first M-step is the whole fit.
        return source.sample(source.num_rows, generator)
    groups = range(UNKNOWN, labels.num_classes)
    device = torch.device("cpu") if generator is None else generator.device
    places, weights = [], []
    for group in groups:
        own = (named == group).nonzero().squeeze(-1)
        most = min(len(own), max(limit // len(groups), limit * len(own) // len(named)))
        order = torch.randperm(len(own), generator=generator, device=device).cpu()
        drawn = own[order[:most]]
        places.append(drawn)
        weights.append(torch.full((most,), len(own) / max(most, 1), dtype=torch.float64))
    index, order = torch.cat(places).sort()
    rows = source.take(index)
    weight = torch.cat(weights)[order].to(rows.x.device)
    weight = weight.reshape(-1, *[1] * (rows.x.dim() - 2))
    if rows.weight is not None:
        return rows._replace(weight=rows.weight.double() * weight)
    return rows._replace(weight=weight.expand(rows.x.shape[:-1]))


def assign_classes(
    labels: Labels,
    model: MixtureModel,
    initializer: Initializer,
    rows: Batch,
    generator: Generator | None,
) -> Tensor:
    """Components `(N, M)` of rows: within each class by the initializer, else by the nearest mean.

    They are responsibilities `(N, M, K)` where the initializer gives such.

    Args:
        labels: classes of the components.
        model: of M mixtures.
        initializer: assigns the rows of each class to its components.
        rows: with weights.
        generator: source of randomness.

    Raises:
        InvalidDataError: a class has fewer rows than components.
    """
    named = _named(labels, rows).to(rows.x.device)
    parts = []
    for c in range(labels.num_classes):
        own = [k for k, of in enumerate(labels.class_of_component) if of == c]
        at = (named == c).nonzero().squeeze(-1)
        if len(at) < len(own):
            raise InvalidDataError(
                f"{len(at)} row(s) have the label {c}, fewer than the {len(own)} components of "
                "this class: give it fewer, or label more rows"
            )
        if len(own) > 1:
            found = assign_rows(model, initializer, rows.at(at), len(own), generator)
        else:
            found = at.new_zeros(len(at), len(model.batch_index))
        parts.append(_Part(at, torch.tensor(own, device=at.device), found))
    unknown = (named == UNKNOWN).nonzero().squeeze(-1)
    if len(unknown):
        every = torch.arange(labels.num_components, device=unknown.device)
        parts.append(_Part(unknown, every, _nearest(model, rows, parts, unknown)))
    return _join(parts, rows.num_rows, labels.num_components)


class _Part(NamedTuple):
    """Rows by number `(n,)`, some components `(m,)`, and which of these the rows are of.

    Either places among the components `(n, M)`, or responsibilities `(n, M, m)`.
    """

    rows: Tensor
    components: Tensor
    found: Tensor

    def responsibilities(self) -> Tensor:
        """In float64."""
        if self.found.is_floating_point():
            return self.found.double()
        return one_hot(self.found, len(self.components)).double()


def _join(parts: Sequence[_Part], num_rows: int, num_components: int) -> Tensor:
    """Components `(N, M)` of rows, or responsibilities `(N, M, K)` where some parts have them."""
    first = parts[0].found
    if not any(part.found.is_floating_point() for part in parts):
        given = first.new_empty(num_rows, first.shape[1])
        for rows, components, found in parts:
            given[rows] = components[found]
        return given
    given = first.new_zeros(num_rows, first.shape[1], num_components, dtype=torch.float64)
    for part in parts:
        own = given.new_zeros(len(part.rows), *given.shape[1:])
        own[..., part.components] = part.responsibilities()
        given[part.rows] = own
    return given


def _nearest(model: MixtureModel, rows: Batch, parts: Sequence[_Part], unknown: Tensor) -> Tensor:
    """Components `(n, M)` with the nearest mean to unlabelled rows, in units of each feature."""
    assert rows.weight is not None
    x = model.per_mixture(rows.x.double())
    weight = model.per_mixture(rows.weight.to(x))
    means: dict[int, Tensor] = {}
    for part in parts:
        share = part.responsibilities() * weight[part.rows].unsqueeze(-1)
        total = share.sum(0).clamp(min=torch.finfo(share.dtype).tiny)
        own = torch.einsum("nmk,nmd->kmd", share, x[part.rows]) / total.T.unsqueeze(-1)
        means |= dict(zip(part.components.tolist(), own, strict=True))
    centres = torch.stack([means[k] for k in sorted(means)], 1)
    unit = x.std(0).unsqueeze(1)
    unit = torch.where(unit > 0, unit, 1.0)
    found = []
    for some in unknown.split(rows_per_chunk(centres.numel(), x, in_cache=False)):
        gap = (x[some].unsqueeze(2) - centres) / unit
        found.append(gap.square().sum(-1).argmin(-1))
    return torch.cat(found)


def _named(labels: Labels, batch: Batch) -> Tensor:
    """The class that each row is said to be of, or -1, `(n,)`."""
    if batch.labels is None:
        return torch.full((batch.num_rows,), UNKNOWN)
    return labels.most_likely(batch.labels).cpu()

"""The start of EM from labels: the components of a class begin at the rows of the class."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

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

    Rows of a class that is drawn more often weigh less.
    """
    if source.num_rows <= limit:
        return source.sample(limit, generator)
    named = torch.cat([_named(labels, batch) for batch in source])
    groups = range(UNKNOWN, labels.num_classes)
    places, weights = [], []
    for group in groups:
        own = (named == group).nonzero().squeeze(-1)
        most = min(len(own), max(limit // len(groups), limit * len(own) // len(named)))
        drawn = own[torch.randperm(len(own), generator=generator)[:most]]
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
    """Responsibilities `(N, M, K)`: within each class by the initializer, else to the nearest mean.

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
    shape = (rows.num_rows, len(model.batch_index), labels.num_components)
    given = torch.zeros(shape, dtype=torch.float64, device=rows.x.device)
    for c in range(labels.num_classes):
        own = [k for k, of in enumerate(labels.class_of_component) if of == c]
        at = (named == c).nonzero().squeeze(-1)
        if len(at) < len(own):
            raise InvalidDataError(
                f"{len(at)} row(s) have the label {c}, fewer than the {len(own)} components of "
                "this class: give it fewer, or label more rows"
            )
        given[at] = _within_class(model, initializer, rows.at(at), own, given[at], generator)
    unknown = (named == UNKNOWN).nonzero().squeeze(-1)
    if len(unknown):
        given[unknown] = _nearest(model, rows, given, unknown)
    return given


def _within_class(
    model: MixtureModel,
    initializer: Initializer,
    rows: Batch,
    components: list[int],
    given: Tensor,
    generator: Generator | None,
) -> Tensor:
    """Responsibilities `(n, M, K)` of rows of one class, which hold zeros."""
    if len(components) == 1:
        given[..., components[0]] = 1.0
        return given
    found = assign_rows(model, initializer, rows, len(components), generator)
    if not found.is_floating_point():
        found = torch.nn.functional.one_hot(found, len(components))
    given[..., components] = found.to(given)
    return given


def _nearest(model: MixtureModel, rows: Batch, given: Tensor, unknown: Tensor) -> Tensor:
    """Responsibilities of unlabelled rows: 1 of the nearest mean, in units of each feature."""
    assert rows.weight is not None
    x = model.per_mixture(rows.x.double())
    weight = given * model.per_mixture(rows.weight.to(given)).unsqueeze(-1)
    total = weight.sum(0).clamp(min=torch.finfo(weight.dtype).tiny)
    means = torch.einsum("nmk,nmd->mkd", weight, x) / total.unsqueeze(-1)
    unit = x.std(0).unsqueeze(1)
    unit = torch.where(unit > 0, unit, 1.0)
    found = []
    for some in unknown.split(rows_per_chunk(means.numel(), x, in_cache=False)):
        gap = (x[some].unsqueeze(2) - means) / unit
        found.append(gap.square().sum(-1).argmin(-1))
    return torch.nn.functional.one_hot(torch.cat(found), means.shape[1]).to(given)


def _named(labels: Labels, batch: Batch) -> Tensor:
    """The class that each row is said to be of, or -1, `(n,)`."""
    if batch.labels is None:
        return torch.full((batch.num_rows,), UNKNOWN)
    return labels.most_likely(batch.labels).cpu()

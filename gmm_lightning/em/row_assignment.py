"""Assignments of rows to components by an initializer."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._validation import require_enough_rows
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.initializers import Given, Initializer, standardize
from gmm_lightning.rows import Batch


def with_weights(model: MixtureModel, rows: Batch) -> Batch:
    """Rows with a weight each, `(N, *B)`."""
    if rows.weight is not None:
        return rows
    shape = (rows.num_rows, *model.batch_shape)
    return rows._replace(weight=torch.ones(shape, dtype=torch.float64))


def assign_rows(
    model: MixtureModel,
    initializer: Initializer,
    rows: Batch,
    num_components: int,
    generator: Generator | None,
) -> Tensor:
    """Labels `(N, M)` or responsibilities `(N, M, K)`, for many mixtures of the batch at a time."""
    assert rows.weight is not None
    single, n, width = model.single_restart(), rows.num_rows, rows.x.shape[-1]
    x = single.per_mixture(rows.x)
    w = single.per_mixture(rows.weight.to(x.device, torch.float64))
    num_restarts = len(model.batch_index) // len(single.batch_index)
    # Rows, their features and distances, which each start of several mixtures has of its own.
    numbers = num_restarts * n * (3 * width + num_components + 8)
    size = rows_per_chunk(numbers, w, in_cache=False)
    parts = [
        _assign_mixtures(initializer, some, own, num_components, num_restarts, generator)
        for some, own in zip(x.split(size, 1), w.T.split(size), strict=True)
    ]
    # Restarts first: (N, R, B) -> (N, M).
    joined = torch.cat(parts, 2)
    return joined.reshape(n, -1, *joined.shape[3:])


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

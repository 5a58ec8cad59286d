"""Rows apart by what is known of them: complete ones, and the others grouped by their patterns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Size, Tensor

from gmm_lightning.rows import (
    ERROR_COVARIANCE,
    Batch,
    errors_of,
    is_shared,
    masked_errors,
    number_patterns,
    uncertain_rows,
)
from gmm_lightning.statistics import SufficientStatistics

# A pattern with so many rows is worth an E-step of its own (measured: D = 16, K = 8).
_FREQUENT = 1024


class PatternRows(NamedTuple):
    """Rows of one pattern.

    Attributes:
        batch: the I observed features, `(n, *1, I)`.
        observed: indices of the features that it has, `(I,)`.
        missing: those of the others, `(D - I,)`.
        embedding: of the observed features in all, `(D, I)`, ones and zeros.
        pooled: moments of the rows in one component, for each mixture of a batch, if they are
            known.
    """

    batch: Batch
    observed: Tensor
    missing: Tensor
    embedding: Tensor
    pooled: SufficientStatistics | None = None

    @classmethod
    def of(cls, rows: Batch, pattern: Tensor) -> PatternRows:
        """Rows of all features, of which a mask `(D,)` says which ones are missing."""
        observed, missing = (own.nonzero().squeeze(-1) for own in (~pattern, pattern))
        embedding = torch.eye(len(pattern), device=pattern.device)[:, observed]
        return cls(rows._replace(x=rows.x[..., observed]), observed, missing, embedding)


@dataclass(frozen=True)
class UncertainRows:
    """Rows in order of what is missing, so that those of one pattern follow each other.

    Attributes:
        batch: the rows `(n, *1, D)`, NaN where an entry is missing.
        patterns: which entries are missing, `(Q, D)`, those with fewest missing entries first.
        starts: where the rows of each pattern begin, and the end, `(Q + 1,)`.
        places: where the rows were in their batch, `(n,)`.
        frequent: the rows of frequent patterns, where they are taken apart.
        cell: which mixture of the flattened batch the rows belong to; None: all of them.
    """

    batch: Batch
    patterns: Tensor
    starts: Tensor
    places: Tensor
    frequent: tuple[PatternRows, ...] = ()
    cell: int | None = None

    def chunks(self, size: int) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """At most `size` rows with as many missing entries, their patterns, and which each has."""
        number = self.patterns.sum(-1)
        ends = (number.diff() != 0).nonzero().squeeze(-1) + 1
        edges = [0, *self.starts[ends].tolist(), self.batch.num_rows]
        for begin, end in itertools.pairwise(edges):
            for start in range(begin, end, size):
                rows = torch.arange(start, min(start + size, end), device=self.starts.device)
                which = torch.searchsorted(self.starts, rows, right=True) - 1
                first, last = int(which[0]), int(which[-1])
                part = self.batch.at(slice(start, start + len(rows)))
                yield part, self.patterns[first : last + 1], which - first


class SplitRows(NamedTuple):
    """The rows of a batch: those that are known exactly, and the others."""

    complete: Batch
    uncertain: tuple[UncertainRows, ...]


def split_rows(
    batch: Batch,
    batch_shape: Size,
    *,
    apart: bool = False,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> SplitRows:
    """A batch in parts; mixtures with rows of their own have uncertain rows of their own.

    Args:
        batch: rows `(n, *B, D)`.
        batch_shape: B of the mixtures, where that of the rows may be broadcast.
        apart: take rows of frequent patterns apart, unless they have errors.
        transform: applied to the uncertain rows, such as a `Standardize`.
    """
    uncertain = uncertain_rows(batch)
    if not bool(uncertain.any()):
        return SplitRows(batch, ())
    complete = batch.at((~uncertain).nonzero().squeeze(-1))
    places = uncertain.nonzero().squeeze(-1)
    rest = batch.at(places)
    if transform is not None:
        rest = rest._replace(x=transform(rest.x))
    apart = apart and errors_of(batch) is None
    if is_shared(batch.x):
        return SplitRows(complete, (_sorted_rows(rest, places, None, apart=apart),))
    rest = rest._replace(x=rest.x.expand(len(places), *batch_shape, -1))
    cells = range(batch_shape.numel())
    own = (_sorted_rows(_of_cell(rest, i), places, i, apart=apart) for i in cells)
    return SplitRows(complete, tuple(own))


def _of_cell(batch: Batch, cell: int) -> Batch:
    """The rows of one mixture, with ones for the batch of mixtures."""
    n, *shape, d = batch.x.shape
    ones = [1] * len(shape)
    x = batch.x.reshape(n, -1, d)[:, cell].reshape(n, *ones, d)
    if batch.weight is None:
        return batch._replace(x=x)
    weight = batch.weight.expand(n, *shape).reshape(n, -1)[:, cell]
    return batch._replace(x=x, weight=weight.reshape(n, *ones))


def _sorted_rows(batch: Batch, places: Tensor, cell: int | None, *, apart: bool) -> UncertainRows:
    """The rows by frequency, number of missing entries, and pattern."""
    missing = torch.isnan(batch.x).reshape(batch.num_rows, -1)
    number, amount = number_patterns(missing), missing.sum(-1)
    frequent = number.bincount()[number] >= _FREQUENT
    # Of a row that misses everything there is no marginal.
    frequent = frequent & (amount < missing.shape[-1]) & apart
    key = (frequent * (missing.shape[-1] + 1) + amount) * (number.max() + 1) + number
    order = key.argsort(stable=True)
    starts = torch.cat([number.new_ones(1), number[order].diff()]).nonzero().squeeze(-1)
    patterns, ends = missing[order[starts]], starts.new_full((1,), batch.num_rows)
    batch, starts = _without_unknown_errors(batch.at(order)), torch.cat([starts, ends])
    rare = len(patterns) - int(frequent[order[starts[:-1]]].sum())
    own = []
    for pattern, (first, last) in zip(
        patterns[rare:], itertools.pairwise(starts[rare:].tolist()), strict=True
    ):
        rows = batch.at(slice(first, last))
        own.append(PatternRows.of(rows, pattern))
    end = int(starts[rare])
    return UncertainRows(
        batch=batch.at(slice(end)),
        patterns=patterns[:rare],
        starts=starts[: rare + 1],
        places=places[order[:end]],
        frequent=tuple(own),
        cell=cell,
    )


def _without_unknown_errors(batch: Batch) -> Batch:
    """The rows with errors of 0 for missing entries, of which they are not read."""
    errors = errors_of(batch)
    if errors is None or batch.extra is None:
        return batch
    observed = ~torch.isnan(batch.x).reshape(batch.num_rows, -1)
    return batch._replace(extra={**batch.extra, ERROR_COVARIANCE: masked_errors(errors, observed)})

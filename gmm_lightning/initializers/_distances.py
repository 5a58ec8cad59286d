"""Squared distances from rows to centres, by matrix products."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk


class DistanceTable:
    """Sets of weighted rows in standard units, stored so that one product gives squared distances.

    `|x - c|^2 = <(-2 c, |c|^2, 1), (x, 1, |x|^2)>`. In standard units the terms are of the size of
    the distances: little cancels. Centres `(S, K, D)` are compared with the rows of their own set;
    several starts from the same rows take a table that was `repeated`. The products of a start
    have the same shape for any number of starts, so its results do not depend on the others.

    Args:
        x: rows `(S, N, D)`.
        weight: `(S, N)`, not negative. Rows of weight 0 fill up short sets: they come last, and
            have no effect.
    """

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x, self.weight = x, weight
        self.unweighted = bool(((weight == 1) | (weight == 0)).all())
        self.features = x.new_empty(len(x), x.shape[-1] + 2, x.shape[1])
        self.features[:, :-2] = x.mT
        self.features[:, -2] = 1.0
        self.features[:, -1] = x.square().sum(-1)
        self.num_weighted = (weight > 0).sum(-1)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_rows(self) -> int:
        """Rows of each set, N."""
        return self.x.shape[1]

    @property
    def _is_shared(self) -> bool:
        """Whether all sets are the same one."""
        return len(self) == 1 or self.x.stride(0) == 0

    def repeated(self, number: int) -> DistanceTable:
        """Each set as often, one copy after another; a single set is not copied."""
        if number == 1:
            return self
        if len(self) == 1:
            return self._map(lambda values: values.expand(number, *values.shape[1:]))
        return self._map(lambda values: values.repeat_interleave(number, 0))

    def select(self, index: Tensor) -> DistanceTable:
        """The sets at increasing positions `index`."""
        if len(index) == len(self):
            return self
        if self._is_shared:
            return self._map(lambda values: values[: len(index)])
        return self._map(lambda values: values[index])

    def one(self, place: int) -> DistanceTable:
        """One of the sets."""
        return self._map(lambda values: values[place : place + 1])

    def split(self, size: int) -> Iterator[DistanceTable]:
        """Tables of `size` sets at most."""
        for i in range(0, len(self), size):
            yield self._map(lambda values, i=i: values[i : i + size])

    def starts(self, number: int, size: int) -> Iterator[DistanceTable]:
        """As from `repeated`, in tables of `size` starts at most."""
        if len(self) == 1:
            yield from self.repeated(number).split(size)
            return
        for part in self.split(max(1, size // number)):
            yield from [part.repeated(number)] if number <= size else part.starts(number, size)

    def _map(self, function: Callable[[Tensor], Tensor]) -> DistanceTable:
        other = copy.copy(self)
        for name in ("x", "weight", "features", "num_weighted"):
            setattr(other, name, function(getattr(self, name)))
        return other

    def at(self, index: Tensor) -> Tensor:
        """The rows at `index` `(S, L)` of each set, `(S, L, D)`."""
        every = torch.arange(len(self), device=index.device).unsqueeze(-1)
        return self.x[every, index]

    def mean_variance(self) -> Tensor:
        """The variance of the rows of each set, averaged over the features, `(S,)`."""
        some = self.x[:1] if self._is_shared else self.x
        share = (self.weight / self.weight.sum(-1, keepdim=True))[: len(some), :, None]
        gap = some - (share * some).sum(1, keepdim=True)
        return (share * gap.square_()).sum(1).mean(-1).expand(len(self))

    def distances(self, centres: Tensor, out: Tensor | None = None) -> Tensor:
        """Squared distances from centres `(S, L, D)` to rows, `(S, L, N)`, up to rounding."""
        return torch.bmm(_coefficients(centres), self.features, out=out)

    def nearest(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the nearest of centres `(S, K, D)` and squared distance to it, `(S, N)` each."""
        num_sets, num_components, _ = centres.shape
        coefficients = _coefficients(centres)
        labels = torch.empty(num_sets, self.num_rows, dtype=torch.long, device=centres.device)
        distance = centres.new_empty(labels.shape)
        # A third of the cache, which the distances share with their rows.
        n = min(max(1, self.num_rows), rows_per_chunk(3 * num_components, centres))
        sets = min(num_sets, rows_per_chunk(3 * n * num_components, centres))
        buffer = centres.new_empty(sets * num_components * n)
        index = torch.arange(num_components, dtype=centres.dtype, device=centres.device)
        code = torch.stack([torch.ones_like(index), index]).expand(sets, -1, -1)
        for i in range(0, self.num_rows, n):
            for j in range(0, num_sets, sets):
                at = slice(j, j + sets), slice(i, i + n)
                some, part = coefficients[at[0]], self.features[at[0], :, at[1]]
                shape = torch.Size((*some.shape[:2], part.shape[-1]))
                chunk = torch.bmm(some, part, out=buffer[: shape.numel()].view(shape))
                _first_minimum(chunk, code[: len(some)], labels[at], distance[at])
        return labels, distance.clamp_(min=0)

    def sums(self, labels: Tensor, num_components: int) -> Tensor:
        """Weighted sum of the rows of each cluster and, last, its weight, `(S, K, D + 1)`."""
        width = self.x.shape[-1] + 1
        sums = self.x.new_zeros(len(labels), num_components, width)
        n = min(max(1, self.num_rows), rows_per_chunk(8 * width, sums))
        if self._is_shared:
            # The starts take turns with the terms of a chunk.
            for i in range(0, self.num_rows, n):
                terms = self._terms((0, slice(i, i + n)))
                for total, label in zip(sums, labels[:, i : i + n], strict=True):
                    total.index_add_(0, label, terms)
            return sums
        sets = rows_per_chunk(8 * n * width, sums)
        flat = sums.view(-1, width)
        cluster = labels + num_components * torch.arange(len(labels)).to(labels).unsqueeze(-1)
        for i in range(0, self.num_rows, n):
            for j in range(0, len(labels), sets):
                at = slice(j, j + sets), slice(i, i + n)
                flat.index_add_(0, cluster[at].flatten(), self._terms(at).flatten(0, 1))
        return sums

    def update_sums(self, sums: Tensor, before: Tensor, labels: Tensor) -> None:
        """Update `sums` of the labels `before` in place, by the rows whose labels changed."""
        at = (before != labels).nonzero(as_tuple=True)
        terms, first = self._terms(at), sums.shape[1] * at[0]
        flat = sums.view(-1, sums.shape[-1])
        flat.index_add_(0, first + before[at], terms, alpha=-1)
        flat.index_add_(0, first + labels[at], terms)

    def _terms(self, at: tuple[int | slice | Tensor, ...]) -> Tensor:
        weight = self.weight[at].unsqueeze(-1)
        return torch.cat([weight * self.x[at], weight], -1)


def _coefficients(centres: Tensor) -> Tensor:
    norm = centres.square().sum(-1, keepdim=True)
    return torch.cat([-2.0 * centres, norm, torch.ones_like(norm)], -1)


def _first_minimum(chunk: Tensor, code: Tensor, index: Tensor, value: Tensor) -> None:
    """Write the first index and value of the minimum of each column, overwriting `(S, K, n)`.

    Several times faster than a minimum with indices: the minima are marked by ones, and one
    product with the code `(S, 2, K)`, ones and indices, counts them and adds up their indices.
    """
    torch.amin(chunk, 1, keepdim=True, out=value.unsqueeze(1))
    marks = chunk.eq_(value.unsqueeze(1))
    count, place = torch.bmm(code, marks).unbind(1)
    index.copy_(marks.max(1).indices if bool((count > 1).any()) else place)

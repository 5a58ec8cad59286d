"""Squared distances from rows to centres, by matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk


class DistanceTable:
    """Weighted rows in standard units, stored so that one product gives squared distances.

    `|x - c|^2 = <(-2 c, |c|^2, 1), (x, 1, |x|^2)>`. In standard units the terms are of the size of
    the distances: little cancels. The products of a start have the same shape for any number of
    starts, so its results do not depend on the others.

    Args:
        x: rows `(N, D)`.
        weight: `(N,)`, positive.
    """

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x, self.weight = x, weight
        self.unweighted = bool((weight == 1).all())
        self.features = x.new_empty(x.shape[-1] + 2, len(x))
        self.features[:-2] = x.mT
        self.features[-2] = 1.0
        self.features[-1] = x.square().sum(-1)

    def __len__(self) -> int:
        return len(self.x)

    def distances(self, centres: Tensor, out: Tensor | None = None) -> Tensor:
        """Squared distances from centres `(R, L, D)` to rows, `(R, L, N)`, up to rounding."""
        return _product(_coefficients(centres), self.features, out)

    def nearest(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the nearest of centres `(R, K, D)` and squared distance to it, `(R, N)` each."""
        num_starts, num_components, _ = centres.shape
        coefficients = _coefficients(centres)
        labels = torch.empty(num_starts, len(self), dtype=torch.long, device=centres.device)
        distance = centres.new_empty(num_starts, len(self))
        # A third of the cache, which the distances share with their rows.
        n = min(max(1, len(self)), rows_per_chunk(3 * num_components, centres))
        starts = min(num_starts, rows_per_chunk(3 * n * num_components, centres))
        buffer = centres.new_empty(starts * num_components * n)
        index = torch.arange(num_components, dtype=centres.dtype, device=centres.device)
        code = torch.stack([torch.ones_like(index), index]).expand(starts, -1, -1)
        for i in range(0, len(self), n):
            part = self.features[:, i : i + n]
            for j in range(0, num_starts, starts):
                some = coefficients[j : j + starts]
                shape = torch.Size((*some.shape[:2], part.shape[-1]))
                chunk = _product(some, part, buffer[: shape.numel()].view(shape))
                at = slice(j, j + starts), slice(i, i + n)
                _first_minimum(chunk, code[: len(some)], labels[at], distance[at])
        return labels, distance.clamp_(min=0)

    def sums(self, labels: Tensor, num_components: int) -> Tensor:
        """Weighted sum of the rows of each cluster and, last, its weight, `(R, K, D + 1)`."""
        sums = self.x.new_zeros(len(labels), num_components, self.x.shape[-1] + 1)
        step = rows_per_chunk(8 * sums.shape[-1], sums)
        for i in range(0, len(self), step):
            terms = self._terms(slice(i, i + step))
            for total, label in zip(sums, labels[:, i : i + step], strict=True):
                total.index_add_(0, label, terms)
        return sums

    def update_sums(self, sums: Tensor, before: Tensor, labels: Tensor) -> None:
        """Update `sums` of the labels `before` in place, by the rows whose labels changed."""
        for total, old, new, moved in zip(sums, before, labels, before != labels, strict=True):
            some = moved.nonzero().squeeze(-1)
            terms = self._terms(some)
            total.index_add_(0, old[some], terms, alpha=-1).index_add_(0, new[some], terms)

    def _terms(self, some: Tensor | slice) -> Tensor:
        weight = self.weight[some].unsqueeze(-1)
        return torch.cat([weight * self.x[some], weight], -1)


def _coefficients(centres: Tensor) -> Tensor:
    norm = centres.square().sum(-1, keepdim=True)
    return torch.cat([-2.0 * centres, norm, torch.ones_like(norm)], -1)


def _product(coefficients: Tensor, features: Tensor, out: Tensor | None) -> Tensor:
    return torch.bmm(coefficients, features.expand(len(coefficients), -1, -1), out=out)


def _first_minimum(chunk: Tensor, code: Tensor, index: Tensor, value: Tensor) -> None:
    """Write the first index and value of the minimum of each column, overwriting `(R, K, n)`.

    Several times faster than a minimum with indices: the minima are marked by ones, and one
    product with the code `(R, 2, K)`, ones and indices, counts them and adds up their indices.
    """
    torch.amin(chunk, 1, keepdim=True, out=value.unsqueeze(1))
    marks = chunk.eq_(value.unsqueeze(1))
    count, place = torch.bmm(code, marks).unbind(1)
    index.copy_(marks.max(1).indices if bool((count > 1).any()) else place)

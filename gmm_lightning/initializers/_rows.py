"""Distances from rows to centres by matrix products, in blocks that stay in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

# Distances held at once: 512 KiB of float64, to share a second-level cache with their rows.
BLOCK = 1 << 16
# Rows summed at once.
STEP = 1 << 11


class Rows:
    """Weighted rows in standard units, laid out so that one product gives squared distances.

    `|x - c|^2 = <(-2 c, |c|^2, 1), (x, 1, |x|^2)>`. In standard units the terms are of the size of
    the distances, so that little cancels. Every start has matrix products of its own, of the same
    shape however many starts there are: what a start gets does not depend on the others.

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

    def mean_variance(self) -> Tensor:
        """Weighted variance, averaged over the features."""
        moments = self.features @ self.weight / self.weight.sum()
        return (moments[-1] - moments[:-2].square().sum()).clamp(min=0) / self.x.shape[-1]

    def distances(self, centres: Tensor, out: Tensor | None = None) -> Tensor:
        """Squared distances from centres `(R, L, D)` to all rows, `(R, L, N)`.

        Rounding leaves some a little below zero.
        """
        return _product(_coefficients(centres), self.features, out)

    def nearest(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the nearest of centres `(R, K, D)` and squared distance to it, `(R, N)` each."""
        num_starts, num_components, _ = centres.shape
        coefficients = _coefficients(centres)
        labels = torch.empty(num_starts, len(self), dtype=torch.long, device=centres.device)
        distance = centres.new_empty(num_starts, len(self))
        n = max(1, min(len(self), BLOCK // num_components))
        together = min(num_starts, max(1, BLOCK // (n * num_components)))
        buffer = centres.new_empty(together * num_components * n)
        places = torch.arange(num_components, dtype=centres.dtype, device=centres.device)
        code = torch.stack([torch.ones_like(places), places]).expand(together, -1, -1)
        for i in range(0, len(self), n):
            part = self.features[:, i : i + n]
            for j in range(0, num_starts, together):
                some = coefficients[j : j + together]
                shape = torch.Size((*some.shape[:2], part.shape[-1]))
                block = _product(some, part, buffer[: shape.numel()].view(shape))
                at = slice(j, j + together), slice(i, i + n)
                _first_least(block, code[: len(some)], labels[at], distance[at])
        return labels, distance.clamp_(min=0)

    def sums(self, labels: Tensor, num_components: int) -> Tensor:
        """Each cluster's weighted sum of rows and, last, its mass, `(R, K, D + 1)`."""
        sums = self.x.new_zeros(len(labels), num_components, self.x.shape[-1] + 1)
        for i in range(0, len(self), STEP):
            terms = self._terms(slice(i, i + STEP))
            for total, label in zip(sums, labels[:, i : i + STEP], strict=True):
                total.index_add_(0, label, terms)
        return sums

    def transfer(self, sums: Tensor, before: Tensor, labels: Tensor) -> None:
        """Bring the `sums` of the labels before up to date, by the rows that moved."""
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


def _first_least(block: Tensor, code: Tensor, index: Tensor, value: Tensor) -> None:
    """Write the first index and value of each column's least entry; spends the block `(R, K, n)`.

    Several times faster than a minimum with indices: the least entries are marked by ones, and
    one product with the code `(R, 2, K)`, ones and indices, counts them and adds up their indices.
    """
    torch.amin(block, 1, keepdim=True, out=value.unsqueeze(1))
    marks = block.eq_(value.unsqueeze(1))
    count, place = torch.bmm(code, marks).unbind(1)
    index.copy_(marks.max(1).indices if bool((count > 1).any()) else place)

"""One part of a data set as a whole: what starts, reports and pictures read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from gmm_lightning.linalg import accumulator_dtype

# Rows that are converted at once where a pass over all of them is needed.
BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Portion:
    """Some consecutive rows.

    Attributes:
        x: `(n, D)`.
        weight: `(n,)`, or None where every row counts once.
        labels: codes `(n,)`, or None.
    """

    x: Tensor
    weight: Tensor | None = None
    labels: Tensor | None = None


class Part(Protocol):
    """Rows of one part, whole and in order, readable again and again."""

    @property
    def num_rows(self) -> int:
        """N."""
        ...

    @property
    def num_features(self) -> int:
        """D."""
        ...

    @property
    def total_weight(self) -> float:
        """Sum of the weights: N without any."""
        ...

    def __iter__(self) -> Iterator[Portion]:
        """Portions of bounded size."""
        ...

    def some(self, n: int) -> Tensor:
        """At most n rows, evenly spaced."""
        ...


@dataclass(frozen=True, eq=False)
class TensorPart:
    """A part in memory.

    Example:
        >>> part = TensorPart(torch.arange(6.0).reshape(3, 2), torch.tensor([1.0, 0.0, 2.0]))
        >>> part.total_weight, part.some(2).tolist()
        (3.0, [[0.0, 1.0], [4.0, 5.0]])
    """

    x: Tensor
    weight: Tensor | None = None
    labels: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.x)

    @property
    def num_features(self) -> int:
        """D."""
        return self.x.shape[1]

    @property
    def total_weight(self) -> float:
        """Sum of the weights: N without any."""
        return self._total

    @cached_property
    def _total(self) -> float:
        if self.weight is None:
            return self.num_rows
        return float(self.weight.sum(dtype=accumulator_dtype(self.weight.device)))

    def __iter__(self) -> Iterator[Portion]:
        for start in range(0, self.num_rows, BLOCK):
            part = self.at(slice(start, start + BLOCK))
            yield Portion(part.x, part.weight, part.labels)

    def at(self, rows: slice | Tensor) -> TensorPart:
        """The rows at a slice, or of given numbers."""
        return TensorPart(
            self.x[rows],
            None if self.weight is None else self.weight[rows],
            None if self.labels is None else self.labels[rows],
        )

    def some(self, n: int) -> Tensor:
        """At most n rows, evenly spaced."""
        return self.x[:: spacing(self.num_rows, n)]


def spacing(num_rows: int, n: int) -> int:
    """Every which row to take for at most n of them."""
    return max(1, -(-num_rows // n))


def mean_and_deviation(part: Part) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation per feature, `(D,)` each, in float64.

    Two passes, about the first row and then about the mean, so that nothing cancels.
    """
    first_row = next(iter(part)).x[0]
    mean, _ = moments_about(part, first_row.to(accumulator_dtype(first_row.device)))
    return moments_about(part, mean)


def moments_about(part: Part, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation, from sums of the gaps to a shift `(D,)`."""
    total, first, second = shift.new_zeros(()), shift * 0, shift * 0
    for portion in part:
        gap = portion.x.to(shift) - shift
        if portion.weight is None:
            total = total + len(gap)
            first, second = first + gap.sum(0), second + gap.square_().sum(0)
        else:
            weight = portion.weight.to(shift)
            total, first = total + weight.sum(), first + weight @ gap
            second = second + weight @ gap.square_()
    off = first / total
    return shift + off, (second / total - off.square()).clamp(min=0).sqrt()

"""The interface of initializers: assignments of rows, without covariances or parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers._distances import DistanceTable


class Initializer(ABC):
    """Base class: assigns rows to components before the first M-step, for any family and prior."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        """Component indices or responsibilities of rows in standard units.

        Args:
            x: rows `(N, D)`, float64, centred and scaled to unit variance per feature, so that
                neither offset nor scale of the data matters.
            num_components: K, at most N.
            weight: `(N,)`, not negative; rows of weight 0 are already left out.
            generator: source of randomness, on the device of x.

        Returns:
            Component indices `(N,)`, or responsibilities `(N, K)`.
        """

    def assign_many(
        self,
        x: Tensor,
        num_components: int,
        weight: Tensor,
        num_starts: int,
        generator: Generator | None,
    ) -> Tensor:
        """Results of `num_starts` successive calls of `assign`, `(R, N)` or `(R, N, K)`."""
        starts = range(num_starts)
        return torch.stack([self.assign(x, num_components, weight, generator) for _ in starts])

    def max_rows(self, num_components: int) -> int | None:
        """Largest number of rows for this initializer; None leaves it to the caller."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LabelInitializer(Initializer):
    """Initializer by labels, which are found for all starts together from distances."""

    @abstractmethod
    def labels(
        self, rows: DistanceTable, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        """Component indices `(R, N)`; the starts draw random numbers one after the other."""

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        return self.assign_many(x, num_components, weight, 1, generator)[0]

    def assign_many(
        self,
        x: Tensor,
        num_components: int,
        weight: Tensor,
        num_starts: int,
        generator: Generator | None,
    ) -> Tensor:
        return self.labels(DistanceTable(x, weight), num_components, num_starts, generator)


def draw_rows(probability: Tensor, n: int, generator: Generator | None) -> Tensor:
    """Indices of n rows drawn without replacement, by exponential races (no size limit).

    Rows of probability zero come last, so fewer distinct candidates than n are no error.
    """
    race = torch.empty_like(probability).exponential_(generator=generator)
    race /= probability.clamp(min=torch.finfo(probability.dtype).tiny)
    return race.topk(n, largest=False).indices

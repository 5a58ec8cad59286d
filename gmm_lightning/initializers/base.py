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
        """Assignments of several sets of rows, each as from `num_starts` calls of `assign`.

        Args:
            x: rows of B mixtures `(B, N, D)`, as for `assign`.
            num_components: K.
            weight: `(B, N)`; rows of weight 0 fill up short sets: they come last, and what is
                assigned to them has no effect.
            num_starts: R.
            generator: source of randomness; the calls of one mixture follow each other.

        Returns:
            Component indices `(B, R, N)`, or responsibilities `(B, R, N, K)`.
        """
        found = [
            self.assign(own[w > 0], num_components, w[w > 0], generator)
            for own, w in zip(x, weight, strict=True)
            for _ in range(num_starts)
        ]
        assigned = found[0].new_zeros(len(found), x.shape[1], *found[0].shape[1:])
        for whole, own in zip(assigned, found, strict=True):
            whole[: len(own)] = own
        return assigned.unflatten(0, (len(x), num_starts))

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
        """Component indices `(S R, N)` for R starts of each of S sets of rows, one after another.

        Each start draws its random numbers on its own, in that order.
        """

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        return self.assign_many(x[None], num_components, weight[None], 1, generator)[0, 0]

    def assign_many(
        self,
        x: Tensor,
        num_components: int,
        weight: Tensor,
        num_starts: int,
        generator: Generator | None,
    ) -> Tensor:
        rows = DistanceTable(x, weight)
        labels = self.labels(rows, num_components, num_starts, generator)
        return labels.view(len(x), num_starts, -1)


def draw_each(rows: DistanceTable, n: int, num_starts: int, generator: Generator | None) -> Tensor:
    """`draw_rows` by weight for each start of each set, rows `(S R, n, D)`."""
    drawn = [
        draw_rows(weight[:number], n, generator)
        for weight, number in zip(rows.weight, rows.num_weighted.tolist(), strict=True)
        for _ in range(num_starts)
    ]
    return rows.repeated(num_starts).at(torch.stack(drawn))


def draw_rows(probability: Tensor, n: int, generator: Generator | None) -> Tensor:
    """Indices of n rows drawn without replacement, by exponential races (no size limit).

    Rows of probability zero come last, so fewer distinct candidates than n are no error.
    """
    race = torch.empty_like(probability).exponential_(generator=generator)
    race /= probability.clamp(min=torch.finfo(probability.dtype).tiny)
    return race.topk(n, largest=False).indices

"""What an initializer is: rows in, assignments out. It never sees a covariance or a parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers._rows import Rows


class Initializer(ABC):
    """A way to assign rows to components before the first M-step.

    One M-step turns the assignments into parameters, for every covariance family and prior.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        """Assign rows in standard units.

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
        """What `assign` gives when it is called `num_starts` times in a row.

        Args:
            x: rows, as in `assign`.
            num_components: K, at most N.
            weight: `(N,)`, as in `assign`.
            num_starts: R, at least 1.
            generator: source of randomness, left in the state that R calls leave it in.

        Returns:
            Component indices `(R, N)`, or responsibilities `(R, N, K)`.
        """
        starts = range(num_starts)
        return torch.stack([self.assign(x, num_components, weight, generator) for _ in starts])

    def max_rows(self, num_components: int) -> int | None:
        """The most rows to be shown to this initializer; `None` leaves it to the caller."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LabelInitializer(Initializer):
    """An initializer that finds the labels of all starts together, from distances to centres."""

    @abstractmethod
    def labels(
        self, rows: Rows, num_components: int, num_starts: int, generator: Generator | None
    ) -> Tensor:
        """Component indices `(R, N)`, with the draws of one start after those of the other."""

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
        return self.labels(Rows(x, weight), num_components, num_starts, generator)


def draw_rows(probability: Tensor, n: int, generator: Generator | None) -> Tensor:
    """Indices of n rows drawn without replacement, by exponential races (no size limit).

    Rows of probability zero come last, so fewer distinct candidates than n are no error.
    """
    race = torch.empty_like(probability).exponential_(generator=generator)
    return (
        (race / probability.clamp(min=torch.finfo(probability.dtype).tiny))
        .topk(n, largest=False)
        .indices
    )

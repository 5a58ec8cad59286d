"""What an initializer is: rows in, assignments out. It never sees a covariance or a parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor


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

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centre and squared distance to it, `(N,)` each, in chunks."""
    index, distance = [], []
    half = 0.5 * centres.square().sum(-1)
    for part in x.split(max(1, (1 << 18) // len(centres))):
        # Standard units: the expanded square does not cancel.
        best = (part @ centres.mT - half).max(-1)
        index.append(best.indices)
        distance.append((part.square().sum(-1) - 2 * best.values).clamp(min=0))
    return torch.cat(index), torch.cat(distance)


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

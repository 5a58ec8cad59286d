"""Different initializers for different starts: k-means first, then others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.initializers.base import Initializer
from gmm_lightning.initializers.kmeans import KMeans
from gmm_lightning.initializers.kmeans_plus_plus import KMeansPlusPlus
from gmm_lightning.initializers.random_from_data import RandomFromData


class Mixed(Initializer):
    """Gives the starts of a fit to several initializers in turn.

    One start is of the first, by default k-means. Many k-means starts of tidy data end in one to
    three partitions, so the others begin elsewhere; a start whose labels repeat those of an
    earlier one is replaced by random rows.

    Args:
        initializers: in turn; None: k-means, random rows, k-means++, k-means of whitened
            rows, k-means++, random rows.

    Raises:
        InvalidArgumentError: an empty list.

    Example:
        >>> x, weight = torch.randn(1, 20, 2).double(), torch.ones(1, 20).double()
        >>> Mixed().assign_many(x, 3, weight, 5, None).shape
        torch.Size([1, 5, 20])
    """

    name: ClassVar[str] = "mixed"

    def __init__(self, initializers: Sequence[Initializer] | None = None) -> None:
        usual = (
            KMeans(),
            RandomFromData(),
            KMeansPlusPlus(),
            KMeans(whiten=True),
            KMeansPlusPlus(),
            RandomFromData(),
        )
        self.initializers = tuple(usual if initializers is None else initializers)
        if not self.initializers:
            raise InvalidArgumentError("expected one initializer at least, got an empty list")

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        return self.initializers[0].assign(x, num_components, weight, generator)

    def assign_many(
        self,
        x: Tensor,
        num_components: int,
        weight: Tensor,
        num_starts: int,
        generator: Generator | None,
    ) -> Tensor:
        starts: list[Tensor] = [x] * num_starts
        for i, initializer in enumerate(self.initializers):
            own = range(i, num_starts, len(self.initializers))
            if len(own):
                found = initializer.assign_many(x, num_components, weight, len(own), generator)
                for start, assigned in zip(own, found.unbind(1), strict=True):
                    starts[start] = assigned
        if any(assigned.is_floating_point() for assigned in starts):
            return torch.stack([_responsibilities(a, num_components).to(x) for a in starts], 1)
        labels = torch.stack(starts, 1)
        for mixture, start in _repeated(labels, num_components).nonzero().tolist():
            one = slice(mixture, mixture + 1)
            labels[one, start] = RandomFromData().assign_many(
                x[one], num_components, weight[one], 1, generator
            )[:, 0]
        return labels

    def max_rows(self, num_components: int) -> int | None:
        limits = [one.max_rows(num_components) for one in self.initializers]
        return min((limit for limit in limits if limit is not None), default=None)


def _responsibilities(assigned: Tensor, num_components: int) -> Tensor:
    if assigned.is_floating_point():
        return assigned
    return torch.nn.functional.one_hot(assigned, num_components)


def _repeated(labels: Tensor, num_components: int) -> Tensor:
    """Which of labels `(B, R, N)` are, but for their order, those of an earlier start, `(B, R)`."""
    repeated = torch.zeros(labels.shape[:2], dtype=torch.bool, device=labels.device)
    if labels.shape[1] == 1:
        return repeated
    # Each label by the row at which it first appears.
    place = torch.arange(labels.shape[-1], device=labels.device).expand(labels.shape)
    first = place.new_full((*labels.shape[:2], num_components), labels.shape[-1])
    first = first.scatter_reduce(-1, labels, place, "amin").gather(-1, labels)
    for start in range(1, labels.shape[1]):
        same = first[:, :start] == first[:, start : start + 1]
        repeated[:, start] = same.all(-1).any(-1)
    return repeated

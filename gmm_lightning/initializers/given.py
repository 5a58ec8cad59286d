"""Assignments given by the user."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.initializers.base import Initializer
from gmm_lightning.rows import as_tensor


class Given(Initializer):
    """Given labels or responsibilities, one for each row of the data.

    Means, weights or covariances are given through `GMMLayer.set_parameters` instead.

    Args:
        assignments: component indices `(N,)`, or responsibilities `(N, K)`. Where the layer has
            noise, a row of it has index -1, or responsibilities that sum to less than one.

    Raises:
        InvalidArgumentError: in `assign`: no assignments, or a shape or range that does not fit.
    """

    name: ClassVar[str] = "given"

    def __init__(self, assignments: Any = None) -> None:
        self.assignments = None if assignments is None else as_tensor(assignments, "assignments")

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        given, n = self.assignments, len(x)
        if given is None:
            raise InvalidArgumentError(
                "the initializer 'given' needs assignments: component indices (N,) or "
                "responsibilities (N, K)"
            )
        given = given.to(x.device)
        if given.shape == (n,) and not given.is_floating_point():
            if given.numel() and not (int(given.min()) >= -1 and int(given.max()) < num_components):
                raise InvalidArgumentError(
                    f"component indices must be in [0, {num_components}), or -1 for noise, got "
                    f"values from {int(given.min())} to {int(given.max())}"
                )
            return given.long()
        if given.shape == (n, num_components):
            if not bool((torch.isfinite(given) & (given >= 0)).all()):
                raise InvalidArgumentError("responsibilities must be finite and >= 0")
            return given.to(x.dtype)
        raise InvalidArgumentError(
            f"expected component indices of shape ({n},) or responsibilities of shape "
            f"({n}, {num_components}), got {given.dtype} of shape {tuple(given.shape)}"
        )

    def assign_many(
        self,
        x: Tensor,
        num_components: int,
        weight: Tensor,
        num_starts: int,
        generator: Generator | None,
    ) -> Tensor:
        given = self.assign(x[0], num_components, weight[0], generator)
        return given.expand(len(x), num_starts, *given.shape)

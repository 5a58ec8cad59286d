"""A lower and an upper bound, as the projections onto intervals take them."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._tracing import value_of
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter
from gmm_lightning.projections.base import Projection


class IntervalProjection(Projection, ABC):
    """Base class: a lower and an upper bound of each entry; None: the widest that there is.

    Attributes:
        limits: the widest bounds.

    Raises:
        InvalidArgumentError: bounds outside the limits, or a lower one above the upper one.
    """

    limits: ClassVar[tuple[float, float]]
    unlimited: ClassVar[frozenset[str]] = frozenset({"lower", "upper"})
    lower: Tensor
    upper: Tensor

    def __init__(self, lower: Hyperparameter = None, upper: Hyperparameter = None) -> None:
        super().__init__(lower=lower, upper=upper)
        least, most = self.limits
        for name in ("lower", "upper"):
            value = self._given[name]
            if value is None:
                continue
            if value_of(((value >= least) & (value <= most)).all()) is False:
                raise InvalidArgumentError(
                    f"the {name} bound of {self.bound[0]}s must be from {least:g} to {most:g}, got "
                    f"{describe(value.tolist())}"
                )

    def _register_bounds(self, shape: tuple[int, ...]) -> None:
        """Register both as buffers of a shape, and check that they leave room."""
        for name, limit in zip(("lower", "upper"), self.limits, strict=True):
            self._register(name, shape, default=limit)
        if value_of((self.lower > self.upper).any()):
            raise InvalidArgumentError(
                f"the lower bounds of {self.bound[0]}s must not be above the upper ones, got "
                f"{describe(self.config()['lower'])} and {describe(self.config()['upper'])}"
            )

    def bounds_like(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds in the dtype and on the device of values."""
        return self.lower.to(values), self.upper.to(values)

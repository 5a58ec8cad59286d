"""What a region is, and the checks that all of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import is_number
from gmm_lightning.distributions.truncation.envelopes import Envelope, Part
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype

Row = Sequence[float] | Tensor


class Region(ABC):
    """What `within` may be: `Shell`, `Confidence`, `Ball`, `Box`, `HalfSpace` or `Where`."""

    @abstractmethod
    def check(self, num_features: int) -> None:
        """Raise unless rows of this width can lie in the region."""


class Radial(Region, ABC):
    """A range of Mahalanobis radii about the component that a row is drawn from."""

    def check(self, num_features: int) -> None:
        """See `Region.check`: rows of every width have a radius."""

    @abstractmethod
    def radii(self, num_features: int) -> tuple[float, float]:
        """Least and largest radius."""


class Located(Region, ABC):
    """A set of rows, the same for all components."""

    @property
    def max_refused(self) -> int | None:
        """Draws that may be refused, or None for the library's choice."""
        return None

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Which rows lie in the region, `(*S, D)` -> `(*S,)`."""

    @abstractmethod
    def envelopes(self, parts: Sequence[Part]) -> list[Envelope]:
        """One for each component."""


def check_range(name: str, low: Any, high: Any, largest: float) -> None:
    """Raise unless `0 <= low < high <= largest`."""
    if not (is_number(low) and is_number(high) and 0 <= low <= largest and 0 <= high <= largest):
        upper = "0" if math.isinf(largest) else f"0 and at most {largest:g}"
        raise InvalidArgumentError(
            f"{name} must be numbers of at least {upper}, got {low!r} and {high!r}"
        )
    if not low < high:
        raise InvalidArgumentError(
            f"{name} must leave something between them, low < high, got {low!r} and {high!r}"
        )


def as_row(name: str, values: Any, *, finite: bool = True) -> tuple[float, ...]:
    """Numbers `(D,)` as a tuple: a region can be compared, hashed and stored.

    Raises:
        InvalidArgumentError: not one row of numbers, or infinite ones where they must not be.
    """
    try:
        plain = values if hasattr(values, "shape") else [float(v) for v in values]
        row = torch.as_tensor(plain, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        row = torch.zeros(())
    good = row.dim() == 1 and len(row) > 0 and not bool(row.isnan().any())
    if not good or (finite and not bool(row.isfinite().all())):
        kind = "finite numbers" if finite else "numbers"
        raise InvalidArgumentError(f"{name} must be a row of {kind}, got {values!r}")
    return tuple(row.tolist())


def check_width(name: str, row: Row, num_features: int) -> None:
    """Raise unless a row has one number per feature."""
    if len(row) != num_features:
        raise InvalidArgumentError(f"{name} must have {num_features} entries, got {len(row)}")


def as_rows(x: Tensor, width: int | None) -> Tensor:
    """Rows in the precision of sums.

    Raises:
        InvalidArgumentError: another width.
    """
    x = torch.as_tensor(x)
    if x.dim() == 0 or (width is not None and x.shape[-1] != width):
        raise InvalidArgumentError(
            f"expected rows with {width} features in the last axis, got an array of shape "
            f"{tuple(x.shape)}"
        )
    return x.to(accumulator_dtype(x.device))

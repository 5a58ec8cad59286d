"""Regions in the space of the rows: `mixture.sample(n, within=region)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import is_number, require_integer, require_number
from gmm_lightning.distributions.truncation.balls import ball_envelopes
from gmm_lightning.distributions.truncation.boxes import box_envelope
from gmm_lightning.distributions.truncation.envelopes import Beyond, Envelope, Part, Whole
from gmm_lightning.distributions.truncation.region import Located, Row, as_row, as_rows, check_width
from gmm_lightning.errors import InvalidArgumentError


def unit_of(length: float) -> float:
    """The power of two below a length: division by it rounds nothing."""
    return math.ldexp(1.0, math.frexp(length)[1] - 1)


@dataclass(frozen=True)
class Ball(Located):
    """Rows at most so far from a centre: `|x - center| <= radius`, Euclidean.

    Args:
        center: `(D,)`.
        radius: above 0, finite.

    Raises:
        InvalidArgumentError: a centre that is not a row of finite numbers, or a radius that
            leaves nothing to draw from.

    Example:
        >>> from gmm_lightning.distributions import MixtureOfGaussians
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> ball = Ball([20.0, 0.0], radius=1.0)
        >>> bool(ball.contains(mixture.sample(5, within=ball)).all())
        True
    """

    center: Row
    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", as_row("the center of a ball", self.center))
        radius = require_number("the radius of a ball", self.radius, above=0)
        object.__setattr__(self, "radius", radius)

    def check(self, num_features: int) -> None:
        """See `Region.check`."""
        check_width("the center of the ball", self.center, num_features)

    def contains(self, x: Tensor) -> Tensor:
        """See `Located.contains`."""
        x = as_rows(x, len(self.center))
        # Squares of the smallest and the largest radii are no numbers.
        unit = unit_of(self.radius)
        gap = (x - x.new_tensor(self.center)) / unit
        return gap.norm(dim=-1) <= self.radius / unit

    def envelopes(self, parts: Sequence[Part]) -> list[Envelope]:
        """See `Located.envelopes`."""
        return ball_envelopes(parts, parts[0].mean.new_tensor(self.center), self.radius)


@dataclass(frozen=True)
class Box(Located):
    """Rows between two: `lower <= x <= upper`, feature by feature.

    Features that are independent within the components are drawn one by one. Dependent ones are
    proposed by minimax tilting, of which a share is kept that falls with the number of features
    and with their correlations: in 10 dimensions .3 to .97; in 100 dimensions .4 to .9 where all
    correlations are 1/2, .03 to .5 for the covariance of 200 random rows, and 1e-5 to .1 where the
    eigenvalues span three orders of magnitude. Below some .01 it ends in a `RegionError`. A row
    proposed in 100 dimensions takes about 0.1 ms on one core.

    Args:
        lower: `(D,)`, or one number for all features; may be -inf.
        upper: the same, above `lower`; may be inf.

    Raises:
        InvalidArgumentError: not rows of numbers, or an interval without mass.

    Example:
        >>> from gmm_lightning.distributions import MixtureOfGaussians
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> box = Box([5.0, -math.inf], [6.0, 0.0])
        >>> bool(box.contains(mixture.sample(5, within=box)).all())
        True
    """

    lower: float | Row
    upper: float | Row

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if is_number(value):
                value = [value]
            row = as_row(f"the {name} end of a box", value, finite=False)
            object.__setattr__(self, name, row)
        low, high = self.ends(torch.zeros((), dtype=torch.float64))
        if len({len(low), len(high)} - {1}) > 1:
            raise InvalidArgumentError(
                f"the ends of a box must have the same width, got {len(low)} and {len(high)}"
            )
        empty = ~((low < high) & (low < math.inf) & (high > -math.inf))
        if bool(empty.any()):
            where = empty.nonzero().flatten().tolist()
            raise InvalidArgumentError(
                "the lower ends of a box must be below the upper ends, got the empty intervals "
                f"{where[:8]}: lower {self.lower}, upper {self.upper}"
            )

    def ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both, as tensors of one entry or D."""
        return like.new_tensor(self.lower), like.new_tensor(self.upper)

    def check(self, num_features: int) -> None:
        """See `Region.check`."""
        for name in ("lower", "upper"):
            row = getattr(self, name)
            if len(row) != 1:
                check_width(f"the {name} end of the box", row, num_features)

    def contains(self, x: Tensor) -> Tensor:
        """See `Located.contains`."""
        x = as_rows(x, None)
        low, high = self.ends(x)
        if max(len(low), len(high)) > 1:
            x = as_rows(x, max(len(low), len(high)))
        return ((x >= low) & (x <= high)).all(-1)

    def envelopes(self, parts: Sequence[Part]) -> list[Envelope]:
        """See `Located.envelopes`."""
        like = parts[0].mean
        low, high = (end.expand(len(like)) for end in self.ends(like))
        return [box_envelope(part, low, high) for part in parts]


@dataclass(frozen=True)
class HalfSpace(Located):
    """Rows on one side of a plane: `normal'x >= offset`.

    Args:
        normal: `(D,)`, of any length but 0.
        offset: finite.

    Raises:
        InvalidArgumentError: a normal that is zero or not finite, or an offset that is not.

    Example:
        >>> from gmm_lightning.distributions import MixtureOfGaussians
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> plane = HalfSpace([1.0, 1.0], 30.0)
        >>> bool(plane.contains(mixture.sample(5, within=plane)).all())
        True
    """

    normal: Row
    offset: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "normal", as_row("the normal of a half-space", self.normal))
        if not any(self.normal):
            raise InvalidArgumentError("the normal of a half-space must not be zero")
        offset = require_number("the offset of a half-space", self.offset)
        object.__setattr__(self, "offset", offset)

    def plane(self, like: Tensor) -> tuple[Tensor, float]:
        """Normal and offset in a unit of length in which squares are numbers."""
        unit = unit_of(max(abs(float(entry)) for entry in self.normal))
        return like.new_tensor(self.normal) / unit, self.offset / unit

    def check(self, num_features: int) -> None:
        """See `Region.check`."""
        check_width("the normal of the half-space", self.normal, num_features)

    def contains(self, x: Tensor) -> Tensor:
        """See `Located.contains`."""
        x = as_rows(x, len(self.normal))
        normal, offset = self.plane(x)
        return (x * normal).sum(-1) >= offset

    def envelopes(self, parts: Sequence[Part]) -> list[Envelope]:
        """See `Located.envelopes`."""
        normal, offset = self.plane(parts[0].mean)
        found: list[Envelope] = []
        for part in parts:
            pulled = part.pull(normal)
            length = pulled.norm()
            depth = (offset - part.mean @ normal) / length
            found.append(Beyond(part, pulled / length, depth))
        return found


@dataclass(frozen=True)
class Where(Located):
    """Rows for which a function says True; free draws are kept or refused.

    Args:
        fn: rows `(n, D)`, in the mixture's dtype, to a mask `(n,)`.
        max_draws: draws that may be refused, per mixture of a batch and per component that is
            asked for.

    Raises:
        InvalidArgumentError: `fn` cannot be called, or `max_draws` is below 1.

    Example:
        >>> from gmm_lightning.distributions import MixtureOfGaussians
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> ring = Where(lambda x: (x.norm(dim=-1) - 1).abs() < 0.1)
        >>> bool(ring.contains(mixture.sample(5, within=ring)).all())
        True
    """

    fn: Callable[[Tensor], Tensor]
    max_draws: int = 10_000_000

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise InvalidArgumentError(f"fn must be a function of rows, got {self.fn!r}")
        require_integer("max_draws", self.max_draws, least=1)

    def check(self, num_features: int) -> None:
        """See `Region.check`: only the function knows."""

    @property
    def max_refused(self) -> int:
        """See `Located.max_refused`."""
        return self.max_draws

    def contains(self, x: Tensor) -> Tensor:
        """See `Located.contains`."""
        rows = x.reshape(-1, x.shape[-1])
        mask: Any = self.fn(rows)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != rows.shape[:1]:
            kind = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
            raise InvalidArgumentError(
                f"fn must return a boolean tensor of shape {tuple(rows.shape[:1])} for rows of "
                f"shape {tuple(rows.shape)}, got {kind}"
            )
        return mask.reshape(x.shape[:-1])

    def envelopes(self, parts: Sequence[Part]) -> list[Envelope]:
        """See `Located.envelopes`."""
        return [Whole(part) for part in parts]

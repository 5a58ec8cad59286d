"""Boxes and half-spaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import is_number, require_number
from gmm_lightning.distributions.truncation.box_envelopes import box_envelope
from gmm_lightning.distributions.truncation.envelopes import (
    Envelope,
    GaussianComponent,
    half_space_envelope,
)
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion
from gmm_lightning.distributions.truncation.rows import Row, as_row, as_rows, check_width, unit_of
from gmm_lightning.errors import InvalidArgumentError


@dataclass(frozen=True)
class Box(EuclideanRegion):
    """Rows with `lower <= x <= upper`, feature by feature.

    Dependent features are proposed by minimax tilting, whose acceptance falls with their number
    and correlations: .3 to .97 in 10 dimensions; in 100 dimensions .4 to .9 where all correlations
    are 1/2, .03 to .5 for the covariance of 200 random rows, 1e-5 to .1 where the eigenvalues span
    three orders of magnitude. Below about .01 it ends in a `RegionError`. A row proposed in 100
    dimensions takes about 0.1 ms on one core.

    Args:
        lower: `(D,)`, or one number for all features; may be -inf.
        upper: the same, above `lower`; may be inf.

    Raises:
        InvalidArgumentError: not rows of numbers, or an interval without mass.

    Example:
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
            value = [value] if is_number(value) else value
            row = as_row(f"the {name} end of a box", value, finite=False)
            object.__setattr__(self, name, row)
        low, high = self._ends(torch.zeros((), dtype=torch.float64))
        if len({len(low), len(high)} - {1}) > 1:
            raise InvalidArgumentError(
                f"the ends of a box must have the same width, got {len(low)} and {len(high)}"
            )
        empty = ~((low < high) & (low < math.inf) & (high > -math.inf))
        if bool(empty.any()):
            where = empty.nonzero().flatten().tolist()
            raise InvalidArgumentError(
                "the lower ends of a box must be below the upper ends, got the empty intervals "
                f"{where[:8]}: lower {describe(self.lower)}, upper {describe(self.upper)}"
            )

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends, as tensors of one entry or D."""
        return like.new_tensor(self.lower), like.new_tensor(self.upper)

    def check(self, num_features: int) -> None:
        for name in ("lower", "upper"):
            row = getattr(self, name)
            if len(row) != 1:
                check_width(f"the {name} end of the box", row, num_features)

    def contains(self, x: Tensor) -> Tensor:
        x = as_rows(x, None)
        low, high = self._ends(x)
        width = max(len(low), len(high))
        x = as_rows(x, width) if width > 1 else x
        return ((x >= low) & (x <= high)).all(-1)

    def envelopes(self, components: Sequence[GaussianComponent]) -> list[Envelope]:
        like = components[0].mean
        low, high = (end.expand(len(like)) for end in self._ends(like))
        return [box_envelope(component, low, high) for component in components]

    def project(self, dims: Sequence[int], num_features: int) -> Box:
        low, high = (end[list(dims)].tolist() for end in self.bounds(num_features))
        return Box(low, high)

    def bounds(self, num_features: int) -> tuple[Tensor, Tensor]:
        low, high = self._ends(torch.zeros((), dtype=torch.float64, device="cpu"))
        return low.expand(num_features), high.expand(num_features)

    def outline(self, window: Tensor) -> Tensor:
        low, high = self.bounds(len(window))
        return _corners_of(torch.maximum(low, window[:, 0]), torch.minimum(high, window[:, 1]))


@dataclass(frozen=True)
class HalfSpace(EuclideanRegion):
    """Rows with `normal'x >= offset`.

    Args:
        normal: `(D,)`, of any length but 0.
        offset: finite.

    Raises:
        InvalidArgumentError: a normal that is zero or not finite, or an offset that is not.

    Example:
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

    def _plane(self, like: Tensor) -> tuple[Tensor, float]:
        """Normal and offset in a unit of length in which squares do not overflow."""
        unit = unit_of(max(abs(float(entry)) for entry in self.normal))
        return like.new_tensor(self.normal) / unit, self.offset / unit

    def check(self, num_features: int) -> None:
        check_width("the normal of the half-space", self.normal, num_features)

    def contains(self, x: Tensor) -> Tensor:
        x = as_rows(x, len(self.normal))
        normal, offset = self._plane(x)
        return (x * normal).sum(-1) >= offset

    def envelopes(self, components: Sequence[GaussianComponent]) -> list[Envelope]:
        normal, offset = self._plane(components[0].mean)
        found: list[Envelope] = []
        for component in components:
            # In the coordinates of the noise the normal is F' a.
            factor = component.factor
            white = factor * normal if component.is_diagonal else factor.mT @ normal
            length = white.norm()
            depth = (offset - component.mean @ normal) / length
            found.append(half_space_envelope(component, white / length, depth))
        return found

    def project(self, dims: Sequence[int], num_features: int) -> EuclideanRegion:
        left_out = set(range(num_features)) - set(dims)
        # Features that are left out can compensate any value.
        if any(self.normal[i] for i in left_out):
            return Box(-math.inf, math.inf)
        return HalfSpace([float(self.normal[i]) for i in dims], self.offset)

    def outline(self, window: Tensor) -> Tensor:
        # I. E. Sutherland, G. W. Hodgman (1974), Reentrant polygon clipping, CACM 17.
        corners = _corners_of(*window.double().unbind(-1))
        normal, offset = self._plane(corners)
        kept, depths = [], corners @ normal - offset
        ends = zip(corners, corners.roll(-1, 0), depths, depths.roll(-1), strict=True)
        for here, there, depth, other in ends:
            if depth >= 0:
                kept.append(here)
            if (depth >= 0) != (other >= 0):
                kept.append(here + depth / (depth - other) * (there - here))
        return torch.stack(kept) if kept else corners[:0]


def _corners_of(low: Tensor, high: Tensor) -> Tensor:
    """Corners of a box of one or two features, in order around it, `(2 ** D, D)`."""
    if len(low) == 1:
        return torch.stack([low, high])
    x, y = torch.stack([low, high], -1)
    return torch.stack([x[[0, 1, 1, 0]], y[[0, 0, 1, 1]]], -1)

"""Half-spaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.distributions.truncation.box import Box
from gmm_lightning.distributions.truncation.envelopes import (
    Envelope,
    GaussianComponent,
    HalfSpaceEnvelope,
)
from gmm_lightning.distributions.truncation.euclidean import (
    EuclideanRegion,
    corners_of,
    unit_of,
)
from gmm_lightning.distributions.truncation.rows import Row, as_row, as_rows, check_width
from gmm_lightning.errors import InvalidArgumentError


@dataclass(frozen=True)
class HalfSpace(EuclideanRegion):
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

    def _plane(self, like: Tensor) -> tuple[Tensor, float]:
        """Normal and offset in a unit of length in which squares are numbers."""
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
            pulled = component.pull(normal)
            length = pulled.norm()
            depth = (offset - component.mean @ normal) / length
            found.append(HalfSpaceEnvelope(component, pulled / length, depth))
        return found

    def project(self, dims: Sequence[int], num_features: int) -> EuclideanRegion:
        """See `EuclideanRegion.project`: features that are left out can make up for any value."""
        left_out = set(range(num_features)) - set(dims)
        if any(self.normal[i] for i in left_out):
            return Box(-math.inf, math.inf)
        return HalfSpace([float(self.normal[i]) for i in dims], self.offset)

    def outline(self, window: Tensor) -> Tensor:
        """See `EuclideanRegion.outline`.

        References:
            I. E. Sutherland, G. W. Hodgman (1974), Reentrant polygon clipping, Communications of
            the ACM 17.
        """
        corners = corners_of(*window.double().unbind(-1))
        normal, offset = self._plane(corners)
        following, kept = corners.roll(-1, 0), []
        depths = corners @ normal - offset
        for here, there, depth, other in zip(
            corners, following, depths, depths.roll(-1), strict=True
        ):
            if depth >= 0:
                kept.append(here)
            if (depth >= 0) != (other >= 0):
                kept.append(here + depth / (depth - other) * (there - here))
        return torch.stack(kept) if kept else corners[:0]

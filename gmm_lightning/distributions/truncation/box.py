"""Boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._validation import is_number
from gmm_lightning.distributions.truncation.box_envelopes import box_envelope
from gmm_lightning.distributions.truncation.envelopes import Envelope, GaussianComponent
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion, corners_of
from gmm_lightning.distributions.truncation.rows import Row, as_row, as_rows, check_width
from gmm_lightning.errors import InvalidArgumentError


@dataclass(frozen=True)
class Box(EuclideanRegion):
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
                f"{where[:8]}: lower {self.lower}, upper {self.upper}"
            )

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both, as tensors of one entry or D."""
        return like.new_tensor(self.lower), like.new_tensor(self.upper)

    def check(self, num_features: int) -> None:
        for name in ("lower", "upper"):
            row = getattr(self, name)
            if len(row) != 1:
                check_width(f"the {name} end of the box", row, num_features)

    def contains(self, x: Tensor) -> Tensor:
        x = as_rows(x, None)
        low, high = self._ends(x)
        if max(len(low), len(high)) > 1:
            x = as_rows(x, max(len(low), len(high)))
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
        return corners_of(torch.maximum(low, window[:, 0]), torch.minimum(high, window[:, 1]))

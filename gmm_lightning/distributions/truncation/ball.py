"""Balls as regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.distributions.truncation.ball_envelopes import ball_envelopes
from gmm_lightning.distributions.truncation.envelopes import Envelope, GaussianComponent
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion
from gmm_lightning.distributions.truncation.rows import Row, as_row, as_rows, check_width, unit_of

# Sides of the polygon that is drawn: it deviates from the circle by 1e-4 of its radius.
_SIDES = 240


@dataclass(frozen=True)
class Ball(EuclideanRegion):
    """Rows with `|x - center| <= radius`, Euclidean.

    Args:
        center: `(D,)`.
        radius: above 0, finite.

    Raises:
        InvalidArgumentError: not a row of finite numbers, or not a positive finite radius.

    Example:
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
        check_width("the center of the ball", self.center, num_features)

    def contains(self, x: Tensor) -> Tensor:
        x = as_rows(x, len(self.center))
        # Squares of the smallest and the largest radii would underflow or overflow.
        unit = unit_of(self.radius)
        gap = (x - x.new_tensor(self.center)) / unit
        return gap.norm(dim=-1) <= self.radius / unit

    def envelopes(self, components: Sequence[GaussianComponent]) -> list[Envelope]:
        center = components[0].mean.new_tensor(self.center)
        return ball_envelopes(components, center, self.radius)

    def project(self, dims: Sequence[int], num_features: int) -> Ball:
        return Ball([float(self.center[i]) for i in dims], self.radius)

    def bounds(self, num_features: int) -> tuple[Tensor, Tensor]:
        center = torch.tensor(self.center, dtype=torch.float64, device="cpu")
        return center - self.radius, center + self.radius

    def outline(self, window: Tensor) -> Tensor:
        low, high = self.bounds(len(self.center))
        if len(low) == 1:
            return torch.stack([low, high])
        turn = torch.arange(_SIDES, dtype=torch.float64, device="cpu") * (2 * math.pi / _SIDES)
        return 0.5 * (low + high) + self.radius * torch.stack([turn.cos(), turn.sin()], -1)

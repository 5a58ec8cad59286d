"""Clips that draw themselves: a restless background, and objects that cross it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate


def scene(num_frames: int, height: int, width: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A clip `(T, H, W, 3)` of bytes, and where objects cross it, `(T, H, W)`.

    The camera is noisy, the light varies by some per cent, and in parts of the picture leaves
    sway: pixels change between two colours, each out of step with others farther away.
    """
    size = (height, width)
    still, leaves = (50 + 150 * texture(3, size, generator) for _ in range(2))
    sways = texture(1, size, generator)[..., 0] > 0.55
    phase = 6 * texture(1, size, generator)[..., 0]
    clip, truth = [], []
    objects = [Crossing.drawn(num_frames, i, size, generator) for i in range(4)]
    for t in range(num_frames):
        wind = torch.sin(2 * math.pi * (t / 7.3 + phase)) + 0.5 * normal(size, generator)
        frame = torch.where((sways & (wind > 0.3)).unsqueeze(-1), leaves, still)
        moving = torch.zeros(size, dtype=torch.bool)
        for each in objects:
            where = each.covers(t, size)
            frame = torch.where(where.unsqueeze(-1), each.colours, frame)
            moving |= where
        light = 1 + 0.02 * math.sin(2 * math.pi * t / 40)
        frame = light * frame + 3 * normal((*size, 3), generator)
        clip.append(frame.round().clamp(0, 255).to(torch.uint8))
        truth.append(moving)
    return torch.stack(clip), torch.stack(truth)


@dataclass(frozen=True)
class Crossing:
    """An ellipse on its way from one side to the other, striped in two colours."""

    row: float
    radii: tuple[float, float]
    start: float
    speed: float
    colours: Tensor

    @classmethod
    def drawn(
        cls, num_frames: int, number: int, size: tuple[int, int], generator: Generator
    ) -> Crossing:
        """One of four, in a lane of its own."""
        height, width = size
        luck = torch.rand(10, generator=generator).tolist()
        radii = ((0.06 + 0.05 * luck[0]) * height, (0.06 + 0.06 * luck[1]) * width)
        speed = (1.2 + luck[2]) * width / num_frames * (1 if number % 2 else -1)
        stripes = (torch.arange(height) // 3 % 2 == 0)[:, None, None]
        pair = 255 * torch.tensor(luck[4:]).reshape(2, 1, 1, 3)
        colours = torch.where(stripes, pair[0], pair[1]).expand(*size, 3)
        row = (number + 0.35 + 0.3 * luck[3]) / 4 * height
        start = -radii[1] if number % 2 else width + radii[1]
        return cls(row, radii, start, speed, colours)

    def covers(self, t: int, size: tuple[int, int]) -> Tensor:
        """Where it is at a time, `(H, W)`."""
        column = self.start + self.speed * t
        down = ((torch.arange(size[0]) - self.row) / self.radii[0]).square()
        along = ((torch.arange(size[1]) - column) / self.radii[1]).square()
        return down[:, None] + along <= 1


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Standard normal noise."""
    return torch.randn(*shape, generator=generator)


def texture(channels: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Clouds with finer clouds in them, `(H, W, C)` in [0, 1]."""
    total, weight = torch.zeros(1, channels, *size), 1.0
    for cell in (40, 12, 4):
        coarse = [2 + side // cell for side in size]
        noise = torch.rand(1, channels, *coarse, generator=generator)
        total = total + weight * interpolate(noise, size, mode="bilinear", align_corners=True)
        weight /= 2
    total = total - total.amin((-2, -1), keepdim=True)
    return (total / total.amax((-2, -1), keepdim=True))[0].movedim(0, -1)

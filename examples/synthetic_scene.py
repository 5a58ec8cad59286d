"""Synthetic videos for background subtraction: swaying leaves, and objects that cross the view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

NUM_OBJECTS = 4


def synthetic_scene(
    num_frames: int, height: int, width: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """A video `(T, H, W, 3)` of bytes and the true foreground mask `(T, H, W)`.

    The camera is noisy and the light varies by a few per cent. In parts of the view leaves sway:
    a pixel alternates between two colours, with a phase that varies from place to place.
    """
    size = (height, width)
    still = 50 + 150 * cloud_texture(3, size, generator)
    leaves = 50 + 150 * cloud_texture(3, size, generator)
    swaying = cloud_texture(1, size, generator)[..., 0] > 0.55
    phase = 6 * cloud_texture(1, size, generator)[..., 0]
    objects = [MovingObject.random(i, num_frames, size, generator) for i in range(NUM_OBJECTS)]

    video, truth = [], []
    for t in range(num_frames):
        gust = 0.5 * torch.randn(size, generator=generator)
        wind = torch.sin(2 * math.pi * (t / 7.3 + phase)) + gust
        frame = torch.where((swaying & (wind > 0.3)).unsqueeze(-1), leaves, still)
        foreground = torch.zeros(size, dtype=torch.bool)
        for moving in objects:
            mask = moving.mask(t)
            frame = torch.where(mask.unsqueeze(-1), moving.colors, frame)
            foreground |= mask
        light = 1 + 0.02 * math.sin(2 * math.pi * t / 40)
        frame = light * frame + 3 * torch.randn(*size, 3, generator=generator)
        video.append(frame.round().clamp(0, 255).to(torch.uint8))
        truth.append(foreground)
    return torch.stack(video), torch.stack(truth)


@dataclass(frozen=True)
class MovingObject:
    """An ellipse with stripes of two colours that crosses the view at constant speed.

    Attributes:
        row: row of the centre.
        start: column of the centre at time 0.
        speed: columns per frame; negative to the left.
        radii: half the height and half the width.
        colors: an image `(H, W, 3)` of which the ellipse shows a part.
    """

    row: float
    start: float
    speed: float
    radii: tuple[float, float]
    colors: Tensor

    @classmethod
    def random(
        cls, number: int, num_frames: int, size: tuple[int, int], generator: Generator
    ) -> MovingObject:
        """The object in one of `NUM_OBJECTS` lanes; odd lanes go to the right."""
        height, width = size
        u = torch.rand(10, generator=generator).tolist()
        to_the_right = number % 2 == 1
        radii = ((0.06 + 0.05 * u[0]) * height, (0.06 + 0.06 * u[1]) * width)
        speed = (1.2 + u[2]) * width / num_frames * (1 if to_the_right else -1)
        row = (number + 0.35 + 0.3 * u[3]) / NUM_OBJECTS * height
        start = -radii[1] if to_the_right else width + radii[1]
        striped = (torch.arange(height) // 3 % 2 == 0)[:, None, None]
        first, second = 255 * torch.tensor(u[4:]).reshape(2, 1, 1, 3)
        colors = torch.where(striped, first, second).expand(*size, 3)
        return cls(row, start, speed, radii, colors)

    def mask(self, t: int) -> Tensor:
        """Pixels that the object covers at time t, `(H, W)`."""
        height, width, _ = self.colors.shape
        column = self.start + self.speed * t
        vertical = ((torch.arange(height) - self.row) / self.radii[0]).square()
        horizontal = ((torch.arange(width) - column) / self.radii[1]).square()
        return vertical[:, None] + horizontal <= 1


def cloud_texture(channels: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Smooth noise at three scales, `(H, W, C)` in [0, 1]."""
    total, weight = torch.zeros(1, channels, *size), 1.0
    for cell in (40, 12, 4):
        coarse = [2 + side // cell for side in size]
        noise = torch.rand(1, channels, *coarse, generator=generator)
        total = total + weight * interpolate(noise, size, mode="bilinear", align_corners=True)
        weight /= 2
    total = total - total.amin((-2, -1), keepdim=True)
    return (total / total.amax((-2, -1), keepdim=True))[0].movedim(0, -1)

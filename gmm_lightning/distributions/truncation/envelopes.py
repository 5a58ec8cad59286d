"""Envelopes of a component: densities of known mass that lie above it within a region."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.special import log_ndtr

from gmm_lightning.distributions.truncation.truncated import TruncatedNormals


@dataclass(frozen=True)
class GaussianComponent:
    """A component `N(mu, F F')`, where a vector F `(D,)` stands for a diagonal factor.

    Shape:
        mean `(D,)`, factor `(D, D)` or `(D,)`.
    """

    mean: Tensor
    factor: Tensor

    @property
    def is_diagonal(self) -> bool:
        """Whether the features are independent."""
        return self.factor.dim() == 1

    def unwhiten(self, noise: Tensor) -> Tensor:
        """`mu + F z` for rows `(n, D)`."""
        if self.is_diagonal:
            return self.mean + noise * self.factor
        return torch.addmm(self.mean, noise, self.factor.mT)

    def pull(self, normal: Tensor) -> Tensor:
        """`F' a`: a direction in the coordinates of the noise, `(D,)`."""
        return self.factor * normal if self.is_diagonal else self.factor.mT @ normal

    def noise(self, rows: int, generator: Generator | None) -> Tensor:
        """Standard normals, `(n, D)`."""
        shape = (rows, len(self.mean))
        like = self.mean
        return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)


class Envelope(ABC):
    """A proposal distribution q with `exp(log_mass) q(x) >= N(x | mu, Sigma)` within the region.

    Attributes:
        name: of the proposal, for messages.
        log_mass: `log M`, a number.
        cost: of a proposal, relative to drawing normals.
    """

    name: ClassVar[str]
    cost: ClassVar[int] = 1
    log_mass: float

    @abstractmethod
    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Rows `(n, D)` from q, and their log acceptance `log N(x) - log M - log q(x)`, `(n,)`."""


@dataclass(frozen=True)
class Unrestricted(Envelope):
    """The component itself."""

    component: GaussianComponent
    name: ClassVar[str] = "the component itself"
    log_mass: float = 0.0

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        x = self.component.unwhiten(self.component.noise(rows, generator))
        return x, x.new_zeros(rows)


class HalfSpaceEnvelope(Envelope):
    """The component in a half-space: `e'z >= depth` for a unit vector e, z the component's noise.

    The mass is `Phi(-depth)`; along e the noise is a truncated normal, across e it is free.
    """

    name: ClassVar[str] = "the component beyond a plane"

    def __init__(self, component: GaussianComponent, direction: Tensor, depth: Tensor) -> None:
        self.component, self.direction = component, direction
        self.log_mass = float(log_ndtr(-depth))
        self.along = TruncatedNormals(depth.reshape(1), torch.full_like(depth.reshape(1), math.inf))

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        z = self.component.noise(rows, generator)
        only = torch.zeros(rows, dtype=torch.long, device=z.device)
        t = self.along.draw(only, generator)
        z = z + (t - z @ self.direction).unsqueeze(-1) * self.direction
        return self.component.unwhiten(z), z.new_zeros(rows)

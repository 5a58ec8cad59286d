"""Envelopes of a component: densities of known mass that lie above it within a region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.special import log_ndtr

from gmm_lightning.distributions.truncation.truncated import TruncatedNormals


@dataclass(frozen=True)
class GaussianComponent:
    """A component `N(mu, F F')`, with F `(D, D)`, or `(D,)` if it is diagonal."""

    mean: Tensor
    factor: Tensor

    @property
    def is_diagonal(self) -> bool:
        """Whether the features are independent."""
        return self.factor.dim() == 1

    def unwhiten(self, noise: Tensor) -> Tensor:
        """Rows `mu + F z` for noise z `(n, D)`."""
        if self.is_diagonal:
            return self.mean + noise * self.factor
        return torch.addmm(self.mean, noise, self.factor.mT)

    def noise(self, rows: int, generator: Generator | None) -> Tensor:
        """Standard normals, `(n, D)`."""
        return self.mean.new_empty(rows, len(self.mean)).normal_(generator=generator)


@dataclass(frozen=True)
class Envelope:
    """A proposal distribution q with `exp(log_mass) q(x) >= N(x | mu, Sigma)` within the region.

    Attributes:
        name: of the proposal, for messages.
        log_mass: `log M`.
        draw: function of a number n and a source of randomness that returns rows `(n, D)` from q
            and their log acceptance `log N(x) - log M - log q(x)`, `(n,)`.
        cost: of a proposal, relative to drawing normals.
    """

    name: str
    log_mass: float
    draw: Callable[[int, Generator | None], tuple[Tensor, Tensor]]
    cost: int = 1


def unrestricted_envelope(component: GaussianComponent) -> Envelope:
    """The component itself as its envelope."""

    def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        x = component.unwhiten(component.noise(rows, generator))
        return x, x.new_zeros(rows)

    return Envelope("the component itself", 0.0, draw)


def half_space_envelope(component: GaussianComponent, direction: Tensor, depth: Tensor) -> Envelope:
    """Envelope in a half-space: `e'z >= depth` for a unit vector e, z the component's noise.

    The mass is `Phi(-depth)`; the noise is a truncated normal along e, unrestricted across it.
    """
    along = TruncatedNormals(depth.reshape(1), torch.full_like(depth.reshape(1), math.inf))

    def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        z = component.noise(rows, generator)
        t = along.draw(torch.zeros(rows, dtype=torch.long, device=z.device), generator)
        z = z + (t - z @ direction).unsqueeze(-1) * direction
        return component.unwhiten(z), z.new_zeros(rows)

    return Envelope("the component beyond a plane", float(log_ndtr(-depth)), draw)

"""Truncated normal and chi distributions, and the normal mass of an interval."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor
from torch.special import log_ndtr, ndtr, ndtri

from gmm_lightning.distributions.truncation.hull import TANGENT_DEPTHS, PiecewiseExponentialHull
from gmm_lightning.linalg import LOG_2PI

# Gauss-Legendre quadrature, which integrates smooth functions on [-1, 1] to rounding.
_NODES, _WEIGHTS = (values.tolist() for values in np.polynomial.legendre.leggauss(16))


def _mirror(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mask of the intervals mostly below zero, and ends `|a| <= b` after mirroring these."""
    flip = low + high < 0
    return flip, torch.where(flip, -high, low), torch.where(flip, -low, high)


def log_interval_mass(low: Tensor, high: Tensor, width: Tensor | None = None) -> Tensor:
    """Log mass `log(Phi(high) - Phi(low))`, precise also in the tails and for thin intervals.

    `width` is `high - low` where it is known more accurately than the difference.
    """
    width = high - low if width is None else width
    _, a, b = _mirror(low, high)
    # Beyond zero the logarithms of the tails differ enough unless the density varies by less than
    # a factor e over the interval, which a quadrature then integrates.
    log_a, log_b = log_ndtr(-a), log_ndtr(-b)
    beyond = log_a + torch.log1p(-torch.where(log_a.isfinite(), log_b - log_a, -math.inf).exp())
    # Where zero lies inside, both the mass and its complement are sums of positive terms.
    missing = (ndtr(a) + ndtr(-b)).clamp(max=1.0)
    there = 0.5 * (torch.erf(b * math.sqrt(0.5)) - torch.erf(a * math.sqrt(0.5)))
    across = torch.where(missing < 0.5, torch.log1p(-missing), there.log())
    value = torch.where(a > 0, beyond, across)
    near = a.clamp(min=0)
    # Rounding of the ends shows in widths below 1e-3.
    thin = ((b - near) * (near + 0.5 * (b - near)) < 1) & ((a > 0) | (width < 1e-3))
    if thin.any():
        near, start, w = near[thin], (a - near)[thin], 0.5 * width[thin]
        t = start + (1 + near.new_tensor(_NODES).unsqueeze(-1)) * w
        total = near.new_tensor(_WEIGHTS) @ (-t * (near + 0.5 * t)).exp()
        value[thin] = w.log() + total.log() - 0.5 * (near.square() + LOG_2PI)
    return value


class TruncatedNormals:
    """Standard normals on intervals `[low, high]`, `(E,)`, exact at any distance from zero."""

    def __init__(self, low: Tensor, high: Tensor, width: Tensor | None = None) -> None:
        width = high - low if width is None else width
        flip, a, b = _mirror(low, high)
        self.near = near = a.clamp(min=0)
        self.sign = torch.where(flip, -1.0, 1.0).to(near)
        start = a - near
        stop = torch.where(start.isfinite(), start + width, b - near)
        column, depths = near.unsqueeze(-1), near.new_tensor(TANGENT_DEPTHS)
        right = 2 * depths / (column + (column.square() + 2 * depths).sqrt())
        left = torch.where(column > 0, 0.0, -(2 * depths.flip(0)).sqrt())
        touch = torch.cat([left, torch.zeros_like(column), right], -1)
        touch = touch.clamp(start.unsqueeze(-1), stop.unsqueeze(-1))

        def log_density(t: Tensor, which: Tensor) -> Tensor:
            return -t * (near[which] + 0.5 * t)

        def slope(t: Tensor, which: Tensor) -> Tensor:
            return -near[which] - t

        self.hull = PiecewiseExponentialHull(log_density, slope, start, stop, touch)

    def draw(self, which: Tensor, generator: Generator | None) -> Tensor:
        """A sample from interval `which` for each row."""
        return self.sign[which] * (self.near[which] + self.hull.draw(which, generator))


def sample_truncated_normals(
    low: Tensor, high: Tensor, width: Tensor, generator: Generator | None
) -> Tensor:
    """A standard normal sample from each interval `[low, high]`, `(E,)`, exact at any distance.

    Most intervals hold enough mass for the inverse distribution function, from the end that is
    nearer to zero; thin and far ones are drawn by rejection from the hull of tangents.
    """
    flip, a, b = _mirror(low, high)
    beyond_a, beyond_b = ndtr(-a), ndtr(-b)
    # u = 0, once in 2^53, would give an infinity.
    u = torch.empty_like(a).uniform_(generator=generator).clamp(min=torch.finfo(a.dtype).tiny)
    z = -ndtri(beyond_b + u * (beyond_a - beyond_b))
    z = torch.where(flip, -1, 1) * z.clamp(a, b)
    # Below a width of 1e-3 the difference of two probabilities loses too many digits.
    hard = ((a > 6) | (width < 1e-3)).nonzero().squeeze(-1)
    if len(hard):
        normals = TruncatedNormals(low[hard], high[hard], width[hard])
        z[hard] = normals.draw(torch.arange(len(hard), device=a.device), generator)
    return z


def sample_truncated_chi(
    num_features: int, low: float, high: float, like: Tensor, generator: Generator | None
) -> Tensor:
    """Samples of the chi distribution with D degrees of freedom within `[low, high]`, as `like`.

    With r0 the most likely length in the interval and `r = r0 + t`, up to a constant

        h(t) = (D - 1) log(1 + t / r0) - r0 t - t^2 / 2

    keeps its precision at any D, in shells of any thinness, and at any distance.
    """
    power = num_features - 1
    mode = like.new_tensor([min(max(math.sqrt(power), low), high)])

    def log_density(t: Tensor, which: Tensor) -> Tensor:
        value = -t * (mode + 0.5 * t)
        return value + power * torch.log1p(t / mode) if power else value

    def slope(t: Tensor, which: Tensor) -> Tensor:
        value = -mode - t
        return value + power / (mode + t) if power else value

    hull = PiecewiseExponentialHull(log_density, slope, low - mode, high - mode)
    which = torch.zeros(like.numel(), dtype=torch.long, device=like.device)
    return (mode + hull.draw(which, generator)).view(like.shape)

"""Truncated normal and chi distributions, and the normal mass of an interval."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor
from torch.special import log_ndtr, ndtr

from gmm_lightning.distributions.truncation.hull import (
    TANGENT_DEPTHS,
    PiecewiseExponentialHull,
    tangent_points,
)

_LOG_SQRT_2PI = 0.9189385332046727
_SQRT_HALF = 0.7071067811865476


@cache
def _gauss_legendre() -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1] that integrate what is smooth there to rounding."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    return (0.5 * (nodes + 1)).tolist(), (0.5 * weights).tolist()


def log_interval_mass(low: Tensor, high: Tensor, width: Tensor | None = None) -> Tensor:
    """`log(Phi(high) - Phi(low))` to full relative precision, in the tails and for thin intervals.

    `width` is `high - low` where it is known more accurately than the difference.
    """
    width = high - low if width is None else width
    flip = low + high < 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    # Now |a| <= b. Beyond zero the logarithms of the tails differ enough unless the density
    # varies by less than a factor e over the interval, which a quadrature then integrates.
    log_a, log_b = log_ndtr(-a), log_ndtr(-b)
    beyond = log_a + torch.log1p(-torch.where(log_a.isfinite(), log_b - log_a, -math.inf).exp())
    # Where zero lies inside, both the mass and its complement are sums of positive terms.
    missing = (ndtr(a) + ndtr(-b)).clamp(max=1.0)
    there = 0.5 * (torch.erf(b * _SQRT_HALF) - torch.erf(a * _SQRT_HALF))
    across = torch.where(missing < 0.5, torch.log1p(-missing), there.log())
    value = torch.where(a > 0, beyond, across)
    near = a.clamp(min=0)
    # Rounding of the ends shows in widths below 1e-3.
    thin = ((b - near) * (near + 0.5 * (b - near)) < 1) & ((a > 0) | (width < 1e-3))
    if thin.any():
        near, start, w = near[thin], (a - near)[thin], width[thin]
        total = torch.zeros_like(w)
        for node, weight in zip(*_gauss_legendre(), strict=True):
            t = start + node * w
            total = total + weight * (-t * (near + 0.5 * t)).exp()
        value[thin] = w.log() + total.log() - 0.5 * near.square() - _LOG_SQRT_2PI
    return value


class TruncatedNormals:
    """Standard normals on intervals `[low, high]`, `(E,)`, exact at any distance from zero."""

    def __init__(self, low: Tensor, high: Tensor, width: Tensor | None = None) -> None:
        width = high - low if width is None else width
        flip = low + high < 0
        a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
        near = a.clamp(min=0)
        falls = near.new_tensor(TANGENT_DEPTHS)
        right = 2 * falls / (near.unsqueeze(-1) + (near.square().unsqueeze(-1) + 2 * falls).sqrt())
        left = torch.where(near.unsqueeze(-1) > 0, 0.0, -(2 * falls.flip(0)).sqrt())
        start = a - near
        stop = torch.where(start.isfinite(), start + width, b - near)
        touch = torch.cat([left, torch.zeros_like(near).unsqueeze(-1), right], -1)
        touch = torch.minimum(torch.maximum(touch, start.unsqueeze(-1)), stop.unsqueeze(-1))
        sign = torch.where(flip, -1.0, 1.0).to(near)

        def log_density(t: Tensor, which: Tensor) -> Tensor:
            return -t * (near[which] + 0.5 * t)

        def slope(t: Tensor, which: Tensor) -> Tensor:
            return -near[which] - t

        self.near, self.sign = near, sign
        self.hull = PiecewiseExponentialHull.of(log_density, slope, touch, start, stop)

    def draw(self, which: Tensor, generator: Generator | None) -> Tensor:
        """A sample from interval `which` for each row."""
        t = self.hull.draw(which, generator)
        return self.sign[which] * (self.near[which] + t)


def sample_truncated_normals(
    low: Tensor, high: Tensor, width: Tensor, generator: Generator | None
) -> Tensor:
    """A standard normal sample from each interval `[low, high]`, `(E,)`, exact at any distance.

    Most intervals hold enough mass for the inverse distribution function, from the end that is
    nearer to zero; thin and far ones go by their tangents.
    """
    flip = low + high < 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    beyond_a, beyond_b = ndtr(-a), ndtr(-b)
    u = torch.rand(a.shape, dtype=a.dtype, device=a.device, generator=generator)
    # u = 0, once in 2^53, would give an infinity.
    u = u.clamp(min=torch.finfo(u.dtype).tiny)
    z = -torch.special.ndtri(beyond_b + u * (beyond_a - beyond_b))
    z = torch.where(flip, -1, 1) * torch.minimum(torch.maximum(z, a), b)
    # Below a width of 1e-3 the difference of two probabilities loses digits that show.
    hard = ((a > 6) | (width < 1e-3)).nonzero().squeeze(-1)
    if len(hard):
        normals = TruncatedNormals(low[hard], high[hard], width[hard])
        z[hard] = normals.draw(torch.arange(len(hard), device=a.device), generator)
    return z


def sample_truncated_chi(
    rows: int,
    num_features: int,
    low: float,
    high: float,
    like: Tensor,
    generator: Generator | None,
) -> Tensor:
    """Samples of the chi distribution with D degrees of freedom within `[low, high]`, `(rows,)`.

    With r0 the most likely length in the interval and `r = r0 + t`, up to a constant

        h(t) = (D - 1) log(1 + t / r0) - r0 t - t^2 / 2

    keeps its digits at any D, in shells of any thinness, and at any distance.
    """
    power = num_features - 1
    mode = like.new_tensor([min(max(math.sqrt(power), low), high)])

    def log_density(t: Tensor, which: Tensor) -> Tensor:
        value = -t * (mode + 0.5 * t)
        return value + power * torch.log1p(t / mode) if power else value

    def slope(t: Tensor, which: Tensor) -> Tensor:
        value = -mode - t
        return value + power / (mode + t) if power else value

    start, stop = low - mode, high - mode
    touch = tangent_points(log_density, slope, start, stop)
    hull = PiecewiseExponentialHull.of(log_density, slope, touch, start, stop)
    one = torch.zeros(rows, dtype=torch.long, device=like.device)
    return mode + hull.draw(one, generator)

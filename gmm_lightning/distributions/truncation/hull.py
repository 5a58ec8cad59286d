"""Exact samples from log-concave densities on intervals, many densities at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

# A function of points and of the index of the density that each point belongs to.
_Function = Callable[[Tensor, Tensor], Tensor]

# Tangents touch where the log density lies so far below its mode. These values give a half normal
# the least envelope with two tangents beside the mode's: 0.956 is accepted.
TANGENT_DEPTHS = (0.33743414, 1.77361949)

# At an acceptance above 0.8 this many rounds are never needed.
_MAX_ROUNDS = 200


@dataclass(frozen=True)
class PiecewiseExponentialHull:
    """An upper bound of log-concave densities `exp(h(t))`: the least of some tangents of h.

    A tangent of a concave function lies above it everywhere, so the bound holds wherever the
    knots between the tangents are; only its tightness depends on them.

    Shape:
        E densities with m tangents each: every field but the function is `(E, m)`, in increasing
        order of the touching points; `log_mass`, of the bound, is `(E,)`.

    References:
        W. R. Gilks, P. Wild (1992), Adaptive rejection sampling for Gibbs sampling, Applied
        Statistics 41.
    """

    log_density: _Function
    touch: Tensor
    height: Tensor
    slope: Tensor
    left: Tensor
    right: Tensor
    cumulative: Tensor
    log_mass: Tensor

    @staticmethod
    def of(
        log_density: _Function, slope: _Function, touch: Tensor, low: Tensor, high: Tensor
    ) -> PiecewiseExponentialHull:
        """The bound of h on `[low, high]`, `(E,)`, from hull at `touch`, `(E, m)`.

        An end may be infinite where h has touching points with a slope towards it.
        """
        which = torch.arange(len(touch), device=touch.device).unsqueeze(-1)
        h, d = log_density(touch, which), slope(touch, which)
        step, bend = touch.diff(dim=-1), -d.diff(dim=-1)
        # The tangents at t and t + s meet at t + (h(t+s) - h(t) - d(t+s) s) / (d(t) - d(t+s)).
        offset = (h.diff(dim=-1) - d[:, 1:] * step) / bend
        offset = torch.where((offset >= 0) & (offset <= step), offset, 0.5 * step)
        knots = touch[:, :-1] + offset
        left = torch.cat([low.unsqueeze(-1), knots], -1)
        right = torch.cat([knots, high.unsqueeze(-1)], -1)
        summit = torch.where(d > 0, right, left)
        width = right - left
        fall = d.abs() * width
        flat = ~(fall > 1e-8)
        area = torch.where(flat, width, -torch.expm1(-fall) / d.abs()).log()
        log_area = h + d * (summit - touch) + area
        share = log_area.softmax(-1).cumsum(-1)
        share = share / share[:, -1:]
        return PiecewiseExponentialHull(
            log_density, touch, h, d, left, right, share, log_area.logsumexp(-1)
        )

    def propose(self, which: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """A sample from the hull of density `which` for each row, and its log acceptance."""
        u = torch.rand(
            2, len(which), dtype=self.touch.dtype, device=which.device, generator=generator
        )
        cell = (u[0].unsqueeze(-1) > self.cumulative[which]).sum(-1)
        cell = which * self.touch.shape[-1] + cell
        left, right = self.left.view(-1)[cell], self.right.view(-1)[cell]
        slope, touch = self.slope.view(-1)[cell], self.touch.view(-1)[cell]
        rate, width = slope.abs(), right - left
        fall = rate * width
        steep = fall > 1e-8
        depth = torch.where(steep, -torch.log1p(u[1] * torch.expm1(-fall)) / rate, u[1] * width)
        t = torch.where(slope > 0, right - depth, left + depth)
        t = torch.minimum(torch.maximum(t, left), right)
        bound = self.height.view(-1)[cell] + slope * (t - touch)
        return t, self.log_density(t, which) - bound

    def draw(self, which: Tensor, generator: Generator | None) -> Tensor:
        """A sample from density `which` for each row, by rejection."""
        drawn = torch.empty(len(which), dtype=self.touch.dtype, device=which.device)
        open_rows = torch.arange(len(which), device=which.device)
        for _ in range(_MAX_ROUNDS):
            if len(open_rows) == 0:
                return drawn
            t, log_accept = self.propose(which[open_rows], generator)
            accepted = accept(log_accept, generator)
            drawn[open_rows[accepted]] = t[accepted]
            open_rows = open_rows[~accepted]
        raise ArithmeticError(
            "the bound of a log-concave density does not fit it: its parameters are not finite, "
            "or this is a bug of the library, please report it"
        )


def accept(log_probability: Tensor, generator: Generator | None) -> Tensor:
    """Bernoulli samples with given log probabilities."""
    u = torch.rand(
        log_probability.shape,
        dtype=log_probability.dtype,
        device=log_probability.device,
        generator=generator,
    )
    return u.log() < log_probability


def tangent_points(log_density: _Function, slope: _Function, low: Tensor, high: Tensor) -> Tensor:
    """Where h lies `TANGENT_DEPTHS` below its maximum at 0, on either side, and 0: `(E, 2 J + 1)`.

    For log densities h with `h(0) = 0`, their maximum on intervals `(E,)` about 0, and `h'' <= -1`.
    """
    which = torch.arange(len(low), device=low.device).unsqueeze(-1)
    side = low.new_tensor([-1.0, 1.0]).repeat_interleave(len(TANGENT_DEPTHS)).unsqueeze(0)
    falls = low.new_tensor([*reversed(TANGENT_DEPTHS), *TANGENT_DEPTHS]).unsqueeze(0)
    end = torch.where(side > 0, high.unsqueeze(-1), -low.unsqueeze(-1))
    rate = (-side * slope(torch.zeros_like(end), which)).clamp(min=0)
    # h(t) <= -rate |t| - t^2 / 2, so the fall is reached before this point.
    outer = torch.minimum(end, 2 * falls / (rate + (rate.square() + 2 * falls).sqrt()))
    inner = torch.zeros_like(outer)
    for _ in range(50):
        middle = 0.5 * (inner + outer)
        beyond = log_density(side * middle, which) < -falls
        outer, inner = torch.where(beyond, middle, outer), torch.where(beyond, inner, middle)
    points = side * inner
    left, right = points.split(len(TANGENT_DEPTHS), dim=-1)
    return torch.cat([left, torch.zeros_like(left[:, :1]), right], -1)

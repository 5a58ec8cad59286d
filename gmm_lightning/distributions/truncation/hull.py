"""Exact samples from log-concave densities on intervals, many densities at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

# A function of points and of the index of the density that each point belongs to.
_Function = Callable[[Tensor, Tensor], Tensor]

# How far below its mode the log density is where tangents touch: best for a half normal (0.956).
TANGENT_DEPTHS = (0.33743414, 1.77361949)

# At an acceptance above 0.8 this many rounds are never needed.
_MAX_ROUNDS = 200


class PiecewiseExponentialHull:
    """An upper bound of log-concave densities `exp(h(t))`: the least of some tangents of h.

    A tangent of a concave function lies above it: knots between tangents affect only tightness.
    Intervals `(E,)` may be infinite where h has a touching point with a slope towards the end. By
    default the increasing touching points `(E, m)` lie about a maximum `h(0) = 0` with `h'' <= -1`.

    References:
        W. R. Gilks, P. Wild (1992), Adaptive rejection sampling for Gibbs sampling, JRSS C 41.
    """

    def __init__(
        self,
        log_density: _Function,
        slope: _Function,
        low: Tensor,
        high: Tensor,
        touch: Tensor | None = None,
    ) -> None:
        touch = _tangent_points(log_density, slope, low, high) if touch is None else touch
        which = torch.arange(len(touch), device=touch.device).unsqueeze(-1)
        h, d = log_density(touch, which), slope(touch, which)
        step, bend = touch.diff(dim=-1), -d.diff(dim=-1)
        # The tangents at t and t + s meet at t + (h(t+s) - h(t) - d(t+s) s) / (d(t) - d(t+s)).
        offset = (h.diff(dim=-1) - d[:, 1:] * step) / bend
        offset = torch.where((offset >= 0) & (offset <= step), offset, 0.5 * step)
        knots = touch[:, :-1] + offset
        left = torch.cat([low.unsqueeze(-1), knots], -1)
        right = torch.cat([knots, high.unsqueeze(-1)], -1)
        width = right - left
        fall = d.abs() * width
        area = torch.where(fall > 1e-8, -torch.expm1(-fall) / d.abs(), width).log()
        log_area = h + d * (torch.where(d > 0, right, left) - touch) + area
        share = log_area.softmax(-1).cumsum(-1)
        self.log_density = log_density
        self.log_mass = log_area.logsumexp(-1)
        self.cumulative = share / share[:, -1:]
        self.tangents = (touch, h, d, left, right)

    def propose(self, which: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """A sample from the hull of density `which` for each row, and its log acceptance."""
        u = self.log_mass.new_empty(2, len(which)).uniform_(generator=generator)
        cell = (u[0].unsqueeze(-1) > self.cumulative[which]).sum(-1)
        cell = which * self.cumulative.shape[-1] + cell
        touch, height, slope, left, right = (table.view(-1)[cell] for table in self.tangents)
        rate, width = slope.abs(), right - left
        fall = rate * width
        steep = fall > 1e-8
        depth = torch.where(steep, -torch.log1p(u[1] * torch.expm1(-fall)) / rate, u[1] * width)
        t = torch.where(slope > 0, right - depth, left + depth).clamp(left, right)
        return t, self.log_density(t, which) - (height + slope * (t - touch))

    def draw(self, which: Tensor, generator: Generator | None) -> Tensor:
        """A sample from density `which` for each row, by rejection."""
        drawn = self.log_mass.new_empty(len(which))
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
    return torch.empty_like(log_probability).uniform_(generator=generator).log() < log_probability


def _tangent_points(log_density: _Function, slope: _Function, low: Tensor, high: Tensor) -> Tensor:
    """0, and where h lies `TANGENT_DEPTHS` below `h(0) = 0` on either side, `(E, 2 J + 1)`."""
    which = torch.arange(len(low), device=low.device).unsqueeze(-1)
    side = low.new_tensor([-1.0, 1.0]).repeat_interleave(len(TANGENT_DEPTHS)).unsqueeze(0)
    depths = low.new_tensor([*reversed(TANGENT_DEPTHS), *TANGENT_DEPTHS]).unsqueeze(0)
    end = torch.where(side > 0, high.unsqueeze(-1), -low.unsqueeze(-1))
    rate = (-side * slope(torch.zeros_like(end), which)).clamp(min=0)
    # h(t) <= -rate |t| - t^2 / 2, so the depth is reached before this point.
    outer = torch.minimum(end, 2 * depths / (rate + (rate.square() + 2 * depths).sqrt()))
    inner = torch.zeros_like(outer)
    for _ in range(50):
        middle = 0.5 * (inner + outer)
        beyond = log_density(side * middle, which) < -depths
        outer, inner = torch.where(beyond, middle, outer), torch.where(beyond, inner, middle)
    left, right = (side * inner).split(len(TANGENT_DEPTHS), dim=-1)
    return torch.cat([left, torch.zeros_like(left[:, :1]), right], -1)

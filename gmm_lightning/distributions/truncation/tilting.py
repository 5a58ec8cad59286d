"""Minimax exponential tilting of a Gaussian in a box: the saddle point and its bound."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_lightning.distributions.truncation.truncated import log_interval_mass

# Added to the bound for the error of the maximisation, in nats.
_SLACK = 1e-6
# A gradient this small bounds that error over a hundred units in every direction.
_LEVEL = 1e-8
_MAX_STEPS = 200


class Tilt(NamedTuple):
    """Means of the sequential proposals, `(D,)`, and the largest log likelihood ratio they meet."""

    values: Tensor
    log_bound: float


def order_of_integration(factor: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The features in the order of their restriction, the least probable interval first, `(D,)`.

    Each interval is evaluated given the expected values of the features before it.

    References:
        G. J. Gibson, C. A. Glasbey, D. A. Elston (1994), Monte Carlo evaluation of multivariate
        normal integrals and sensitivity to variate ordering.
    """
    rows, d = factor.clone(), len(low)
    order = torch.arange(d, device=low.device)
    spread = rows.square().sum(-1)
    mean = torch.zeros_like(low)
    for j in range(d):
        rest = order[j:]
        scale = rows[rest].square().sum(-1).sqrt().clamp(min=1e-8 * float(spread.max().sqrt()))
        a, b = (low[rest] - mean[rest]) / scale, (high[rest] - mean[rest]) / scale
        log_mass = log_interval_mass(a, b, (high - low)[rest] / scale)
        best = int(torch.nan_to_num(log_mass, nan=-math.inf).argmin())
        centre = _truncated_mean(a[best : best + 1], b[best : best + 1], log_mass[best : best + 1])
        order[[j, j + best]] = order[[j + best, j]]
        axis = rows[order[j]] / scale[best]
        share = rows[order[j:]] @ axis
        mean[order[j:]] += share * torch.nan_to_num(centre)
        rows[order[j:]] -= share.unsqueeze(-1) * axis
    return order


def _end_densities(low: Tensor, high: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """Densities of a standard normal truncated to `[low, high]` at both ends."""
    log_root = 0.5 * math.log(2 * math.pi)
    at_low = (-0.5 * low.square() - log_mass - log_root).exp()
    return at_low, (-0.5 * high.square() - log_mass - log_root).exp()


def _truncated_mean(low: Tensor, high: Tensor, log_mass: Tensor) -> Tensor:
    """The mean of a standard normal truncated to `[low, high]`."""
    at_low, at_high = _end_densities(low, high, log_mass)
    return at_low - at_high


class _LogRatio:
    """`psi(z, t) = sum_j log P_j(z, t) + t_j^2 / 2 - z_j t_j`: convex in t, concave in z.

    P_j is the mass of the interval of coordinate j for a proposal `N(t_j, 1)` after z_1 .. z_j-1:
    psi is the log likelihood ratio of a sequence of proposals. The last tilt is 0 and the last z
    does not matter, so both are left out of the D - 1 free entries of each.
    """

    def __init__(self, strict: Tensor, low: Tensor, high: Tensor, width: Tensor) -> None:
        self.strict, self.low, self.high, self.width = strict, low, high, width
        self.free = len(low) - 1

    def ends(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both with their last entry, and the ends of the intervals relative to the proposals."""
        z, t = (torch.cat([v, v.new_zeros(1)]) for v in (z, t))
        offset = t + self.strict @ z
        return z, t, self.low - offset, self.high - offset

    def value(self, z: Tensor, t: Tensor) -> float:
        """`psi`."""
        z, t, low, high = self.ends(z, t)
        return float((log_interval_mass(low, high, self.width) + t * (0.5 * t - z)).sum())

    def derivatives(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient in (z, t), `(2 D - 2,)`, and Hessian."""
        n = self.free
        z, t, low, high = self.ends(z, t)
        log_mass = log_interval_mass(low, high, self.width)
        at_low, at_high = _end_densities(low, high, log_mass)
        mean = at_low - at_high
        gradient = torch.cat([(self.strict.mT @ mean - t)[:n], (t - z + mean)[:n]])
        low, high = (torch.where(end.isfinite(), end, 0.0) for end in (low, high))
        bend = low * at_low - high * at_high - mean.square()
        weighted = bend.unsqueeze(-1) * self.strict
        corner = weighted[:n, :n] - torch.eye(n, dtype=z.dtype, device=z.device)
        across = (self.strict.mT @ weighted)[:n, :n]
        along = (1 + bend[:n]).diag()
        return gradient, torch.cat(
            [torch.cat([across, corner.mT], 1), torch.cat([corner, along], 1)]
        )


def minimax_tilt(strict: Tensor, low: Tensor, high: Tensor, width: Tensor) -> Tilt:
    """The tilt that minimises the largest log ratio, by Newton's method on the saddle point.

    The bound belongs to the tilt that the search ends with, as the log ratio is concave in z and
    maximised to convergence. Without a tilt the bound is 0, so the result is never above that.
    """
    ratio = _LogRatio(strict, low, high, width)
    n, zeros = ratio.free, low.new_zeros(2 * (len(low) - 1))
    for start in (_solve_newton(ratio, zeros, slice(0, 2 * n)), zeros):
        tilt = start[n:]
        best = _solve_newton(ratio, start, slice(0, n))[:n]
        gradient = ratio.derivatives(best, tilt)[0][:n]
        bound = ratio.value(best, tilt) + _SLACK
        if float(gradient.abs().max()) < _LEVEL and bound < 0:
            return Tilt(torch.cat([tilt, tilt.new_zeros(1)]), bound)
    return Tilt(torch.zeros_like(low), 0.0)


def _solve_newton(ratio: _LogRatio, start: Tensor, free: slice) -> Tensor:
    """A zero of the gradient in the entries `free`, by Newton steps that shorten it."""
    n, point = ratio.free, start.clone()
    gradient, hessian = ratio.derivatives(point[:n], point[n:])
    size = float(gradient[free].norm())
    for _ in range(_MAX_STEPS):
        if not size > 1e-12:
            break
        step = torch.zeros_like(point)
        # A little more concave in z and convex in t, so that no direction is flat.
        ridge = 1e-11 * (hessian.abs().max() + 1) * point.new_tensor([-1.0, 1.0])
        bent = hessian + ridge.repeat_interleave(n).diag()
        solution, info = torch.linalg.solve_ex(bent[free, free], gradient[free])
        if int(info) or not bool(solution.isfinite().all()):
            break
        step[free] = solution
        length = 1.0
        while length > 1e-10:
            trial = point - length * step
            found, curved = ratio.derivatives(trial[:n], trial[n:])
            shorter = float(found[free].norm())
            if shorter < (1 - 1e-4 * length) * size:
                break
            length *= 0.5
        else:
            break
        point, gradient, hessian, size = trial, found, curved, shorter
    return point

"""Minimax exponential tilting of a Gaussian in a box: the saddle point and its bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmm_lightning.distributions.truncation.truncated import log_interval_mass
from gmm_lightning.linalg import LOG_2PI

# Added to the bound for the error of the maximisation, in nats.
_SLACK = 1e-6
# A gradient this small bounds that error over a hundred units in every direction.
_LEVEL = 1e-8
_MAX_STEPS = 200


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
        at_low, at_high = _end_densities(a[best], b[best], log_mass[best])
        order[[j, j + best]] = order[[j + best, j]]
        axis = rows[order[j]] / scale[best]
        share = rows[order[j:]] @ axis
        # The mean of a truncated normal is the difference of the densities at its ends.
        mean[order[j:]] += share * torch.nan_to_num(at_low - at_high)
        rows[order[j:]] -= share.unsqueeze(-1) * axis
    return order


def _end_densities(low: Tensor, high: Tensor, log_mass: Tensor) -> list[Tensor]:
    """Densities of a standard normal truncated to `[low, high]` at both ends."""
    return [(-0.5 * (end.square() + LOG_2PI) - log_mass).exp() for end in (low, high)]


class _LogRatio:
    """Log ratio `psi(z, t) = sum_j log P_j(z, t) + t_j^2 / 2 - z_j t_j`, convex in t, concave in z.

    P_j is the mass of the interval of coordinate j for a proposal `N(t_j, 1)` after z_1 .. z_j-1:
    psi is the log likelihood ratio of a sequence of proposals. The last tilt is 0 and the last z
    does not matter, so both are left out of the D - 1 free entries of each.
    """

    def __init__(self, strict: Tensor, low: Tensor, high: Tensor, width: Tensor) -> None:
        self.strict, self.low, self.high, self.width = strict, low, high, width
        self.free = len(low) - 1

    def _intervals(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Halves of a point (z, t) with their last entry, intervals about the proposals, masses."""
        z, t = torch.nn.functional.pad(point.view(2, -1), (0, 1))
        offset = t + self.strict @ z
        low, high = self.low - offset, self.high - offset
        return z, t, low, high, log_interval_mass(low, high, self.width)

    def value(self, point: Tensor) -> float:
        """Value of `psi` at a point (z, t), `(2 D - 2,)`."""
        z, t, _, _, log_mass = self._intervals(point)
        return float((log_mass + t * (0.5 * t - z)).sum())

    def derivatives(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient in (z, t), `(2 D - 2,)`, and Hessian."""
        n = self.free
        z, t, low, high, log_mass = self._intervals(point)
        at_low, at_high = _end_densities(low, high, log_mass)
        mean = at_low - at_high
        gradient = torch.cat([(self.strict.mT @ mean - t)[:n], (t - z + mean)[:n]])
        low, high = (torch.where(end.isfinite(), end, 0.0) for end in (low, high))
        bend = low * at_low - high * at_high - mean.square()
        weighted = bend.unsqueeze(-1) * self.strict
        corner = weighted[:n, :n] - torch.eye(n, dtype=z.dtype, device=z.device)
        across = (self.strict.mT @ weighted)[:n, :n]
        upper = torch.cat([across, corner.mT], 1)
        return gradient, torch.cat([upper, torch.cat([corner, (1 + bend[:n]).diag()], 1)])


def minimax_tilt(strict: Tensor, low: Tensor, high: Tensor, width: Tensor) -> tuple[Tensor, float]:
    """The tilt `(D,)` with the least upper bound of the log likelihood ratio, and that bound.

    Newton's method finds the saddle point. The bound belongs to the tilt that the search ends
    with, as the log ratio is concave in z and maximised to convergence. Without a tilt the bound
    is 0, so the result is never above that.

    References:
        Z. I. Botev (2017), The normal law under linear restrictions: simulation and estimation
        via minimax tilting, JRSS B 79.
    """
    ratio = _LogRatio(strict, low, high, width)
    n, zeros = ratio.free, low.new_zeros(2 * (len(low) - 1))
    for start in (_solve_newton(ratio, zeros, slice(0, 2 * n)), zeros):
        best = _solve_newton(ratio, start, slice(0, n))
        bound = ratio.value(best) + _SLACK
        if float(ratio.derivatives(best)[0][:n].abs().max()) < _LEVEL and bound < 0:
            return torch.cat([best[n:], low.new_zeros(1)]), bound
    return torch.zeros_like(low), 0.0


def _solve_newton(ratio: _LogRatio, start: Tensor, free: slice) -> Tensor:
    """A zero of the gradient in the entries `free`, by Newton steps that shorten it."""
    point = start.clone()
    gradient, hessian = ratio.derivatives(point)
    size = float(gradient[free].norm())
    for _ in range(_MAX_STEPS):
        if not size > 1e-12:
            break
        step = torch.zeros_like(point)
        # A little more concave in z and convex in t, so that no direction is flat.
        ridge = 1e-11 * (hessian.abs().max() + 1) * point.new_tensor([-1.0, 1.0])
        bent = hessian + ridge.repeat_interleave(ratio.free).diag()
        solution, info = torch.linalg.solve_ex(bent[free, free], gradient[free])
        if int(info) or not bool(solution.isfinite().all()):
            break
        step[free] = solution
        length = 1.0
        while length > 1e-10:
            trial = point - length * step
            found, curved = ratio.derivatives(trial)
            shorter = float(found[free].norm())
            if shorter < (1 - 1e-4 * length) * size:
                break
            length *= 0.5
        else:
            break
        point, gradient, hessian, size = trial, found, curved, shorter
    return point

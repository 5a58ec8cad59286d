"""Envelopes of a Gaussian in a ball: slices, an exponential tilt, or a half-space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions.truncation.box_envelopes import independent_envelope
from gmm_lightning.distributions.truncation.envelopes import (
    Envelope,
    GaussianComponent,
    half_space_envelope,
    unrestricted_envelope,
)
from gmm_lightning.distributions.truncation.hull import PiecewiseExponentialHull

_BISECTIONS = 60


class _PrincipalAxes(NamedTuple):
    """Components in the axes of their ellipsoids, with their means at the origin.

    Attributes:
        variance: along the axes, `(K, D)`.
        center: of the ball, `(K, D)`.
        nearest: the point of the ball with the highest density, `(K, D)`.
        inward: from there to the centre, `(K, D)`.
        pull: `lambda >= 0` with `P nearest = lambda (center - nearest)`, `(K,)`.
        turns: rotations back to the data, `(D, D)`, or None for diagonal components.
    """

    variance: Tensor
    center: Tensor
    nearest: Tensor
    inward: Tensor
    pull: Tensor
    turns: list[Tensor | None]


def ball_envelopes(
    components: Sequence[GaussianComponent], center: Tensor, radius: float
) -> list[Envelope]:
    """The tightest of three envelopes for each component."""
    if len(center) == 1:
        end = torch.full_like(center, radius)
        around = (GaussianComponent(c.mean - center, c.factor.reshape(1)) for c in components)
        return [_rotate_back(independent_envelope(c, -end, end), center, None) for c in around]
    axes = _principal_axes(components, center, radius)
    slices = _slice_envelopes(axes, radius)
    # A tilt needs the square of the radius, and is no better where that would overflow.
    tilts = _tilted_envelopes(axes, radius) if 1e-100 < radius < 1e100 else []
    chosen: list[Envelope] = []
    for k, component in enumerate(components):
        mean, turn = component.mean, axes.turns[k]
        found = [_rotate_back(slices[k], center, turn)]
        if tilts:
            found.append(_rotate_back(tilts[k], mean, turn))
        own = GaussianComponent(torch.zeros_like(mean), axes.variance[k].sqrt())
        toward = axes.nearest[k] / own.factor
        depth = toward.norm()
        if float(depth) > 0:
            found.append(_rotate_back(half_space_envelope(own, toward / depth, depth), mean, turn))
        else:
            found.append(unrestricted_envelope(component))
        chosen.append(min(found, key=lambda envelope: envelope.log_mass))
    return chosen


def _principal_axes(
    components: Sequence[GaussianComponent], center: Tensor, radius: float
) -> _PrincipalAxes:
    """Rotate each component to its axes, and find the point of the ball of highest density."""
    variances, centers, turns = [], [], []
    for component in components:
        gap = center - component.mean
        if component.is_diagonal:
            turn, spread = None, component.factor
        else:
            turn, spread, _ = torch.linalg.svd(component.factor)
        variances.append(spread.square())
        centers.append(gap if turn is None else gap @ turn)
        turns.append(turn)
    e, a = torch.stack(variances), torch.stack(centers)
    # Minimise sum y^2 / e subject to |y - a| <= R: y = a l e / (1 + l e), with the multiplier l
    # between these two, because |y - a|^2 = sum (a / (1 + l e))^2.
    # In units of R, and root by root, so that balls of any size do not overflow.
    excess = (a.norm(dim=-1) / radius - 1).clamp(min=0)
    low, high = excess / e.amax(-1), excess / e.amin(-1)
    for _ in range(_BISECTIONS):
        middle = low.sqrt() * high.sqrt()
        outside = (a / radius / (1 + middle.unsqueeze(-1) * e)).norm(dim=-1) > 1
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    pull = low.sqrt() * high.sqrt()
    le = pull.unsqueeze(-1) * e
    return _PrincipalAxes(e, a, a * le / (1 + le), a / (1 + le), pull, turns)


def _rotate_back(inner: Envelope, origin: Tensor, turn: Tensor | None) -> Envelope:
    """An envelope in the data's axes, from one in those of a component about an origin."""

    def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        y, log_accept = inner.draw(rows, generator)
        return origin + (y if turn is None else y @ turn.mT), log_accept

    return replace(inner, draw=draw)


def _tilted_envelopes(axes: _PrincipalAxes, radius: float) -> list[Envelope]:
    """Envelopes by the best exponential tilt of each component, relative to its mean.

    For any `l >= 0` the ball has `1 <= exp(l (R^2 - |y - a|^2) / 2)`. Under that factor a Gaussian
    stays one, of precision `P + l I`, and its mass is

        log M(l) = (l R^2 - sum log(1 + l e) - sum l a^2 / (1 + l e)) / 2,

    convex in l, least where the tilted mean of `|y - a|^2` is `R^2`: Chernoff's bound. The
    acceptance is of the order of one over the standard deviation of `l |y - a|^2 / 2`, whatever
    the probability: a twentieth in a hundred dimensions.
    """
    e, a, square = axes.variance, axes.center, radius**2
    far = a.norm(dim=-1)
    high = (2 * far / radius / e.amin(-1)).clamp(min=2 * e.shape[-1] / square)
    least = low = high * 1e-16
    for _ in range(_BISECTIONS):
        middle = (low * high).sqrt()
        tilted = 1 + middle.unsqueeze(-1) * e
        wide = (e / tilted + (a / tilted).square()).sum(-1) > square
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    # Where no tilt is better, the bisection stays at its lower limit.
    tilt = torch.where(low > least, low, 0.0)
    le = tilt.unsqueeze(-1) * e
    lost = le.log1p() + tilt.unsqueeze(-1) * a.square() / (1 + le)
    log_mass = 0.5 * (tilt * square - lost.sum(-1))
    means, stds = a * le / (1 + le), (e / (1 + le)).sqrt()

    def envelope(k: int) -> Envelope:
        component = GaussianComponent(means[k], stds[k])

        def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
            y = component.unwhiten(component.noise(rows, generator))
            return y, -0.5 * tilt[k] * (square - (y - a[k]).square().sum(-1))

        return Envelope("a Gaussian drawn to the centre of the ball", float(log_mass[k]), draw)

    return [envelope(k) for k in range(len(e))]


def _slice_envelopes(axes: _PrincipalAxes, radius: float) -> list[Envelope]:
    """Envelopes by slices of the ball, tilted along the normal at its nearest point y0.

    Relative to the centre, with `y = y0 + w` and s the depth below the tangent plane at y0,

        log N(y) = log N(y0) - |g| s - w'Pw / 2,   |g| = lambda R,

    so a depth from `(2 R s - s^2)^((D - 1) / 2) exp(-|g| s)`, which is log-concave, and a uniform
    point of the slice at that depth are accepted with `exp(-w'Pw / 2)`. In units of 2 R the
    depth has `h(t) = m log t + m log(1 - t) - G t` with `m = (D - 1) / 2`, `G = 2 R |g|`.
    """
    d, m = axes.variance.shape[-1], 0.5 * (axes.variance.shape[-1] - 1)
    steep = 2 * (radius * axes.pull) * radius
    mode = 2 * m / (steep + 2 * m + (steep.square() + 4 * m**2).sqrt())

    def log_density(t: Tensor, which: Tensor) -> Tensor:
        at = mode[which]
        return m * ((t / at).log1p() + (-t / (1 - at)).log1p()) - steep[which] * t

    def slope(t: Tensor, which: Tensor) -> Tensor:
        at = mode[which] + t
        return m / at - m / (1 - at) - steep[which]

    hull = PiecewiseExponentialHull(log_density, slope, -mode, 1 - mode)
    height = m * (mode * (1 - mode)).log() - steep * mode
    disc = m * math.log(math.pi) - math.lgamma(m + 1)
    square = (axes.nearest.square() / axes.variance).sum(-1)
    peak = -0.5 * (square + (2 * math.pi * axes.variance).log().sum(-1))
    log_mass = peak + (d * math.log(2 * radius) + disc + height + hull.log_mass)
    normal = torch.where(axes.pull.unsqueeze(-1) > 0, axes.inward, 1.0)
    normal = normal / normal.abs().amax(-1, keepdim=True)
    normal = normal / normal.norm(dim=-1, keepdim=True)

    def envelope(k: int) -> Envelope:
        inward, variance, from_nearest = normal[k], axes.variance[k], axes.inward[k]

        def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
            which = torch.full((rows,), k, dtype=torch.long, device=normal.device)
            t, log_accept = hull.propose(which, generator)
            t = mode[k] + t
            # Relative to the centre of the ball, whose rounding may exceed the radius.
            y = radius * (2 * t - 1).unsqueeze(-1) * inward
            z = y.new_empty(rows, d).normal_(generator=generator)
            z = z - (z @ inward).unsqueeze(-1) * inward
            u = y.new_empty(rows).uniform_(generator=generator)
            size = 2 * radius * (t * (1 - t)).sqrt() * u ** (1 / (d - 1))
            y = y + (size / z.norm(dim=-1)).unsqueeze(-1) * z
            bend = ((y + from_nearest).square() / variance).sum(-1)
            return y, log_accept - 0.5 * bend

        return Envelope("the ball, tilted towards the component", float(log_mass[k]), draw)

    return [envelope(k) for k in range(len(mode))]

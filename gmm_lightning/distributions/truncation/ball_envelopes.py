"""Envelopes of a Gaussian in a ball: slices, an exponential tilt, or a half-space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions.truncation.box_envelopes import IndependentEnvelope
from gmm_lightning.distributions.truncation.envelopes import (
    Envelope,
    GaussianComponent,
    HalfSpaceEnvelope,
    Unrestricted,
)
from gmm_lightning.distributions.truncation.hull import PiecewiseExponentialHull, tangent_points

_BISECTIONS = 60


class _PrincipalAxes(NamedTuple):
    """Components in the axes of their ellipsoids, with their means at the origin.

    Attributes:
        variance: along the axes, `(K, D)`.
        center: of the ball, `(K, D)`.
        nearest: the point of the ball with the highest density, `(K, D)`.
        inward: from there to the centre, `(K, D)`.
        pull: `lambda >= 0` with `P nearest = lambda (center - nearest)`, `(K,)`.
        turns: rotations back, `(D, D)`, or None for diagonal components.
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
        around = (
            GaussianComponent(component.mean - center, component.factor.reshape(1))
            for component in components
        )
        return [
            _RotatedEnvelope(center, None, IndependentEnvelope(component, -end, end))
            for component in around
        ]
    axes = _principal_axes(components, center, radius)
    # A tilt takes the square of the radius, and gains nothing where that is no number.
    tilts = _ExponentialTilts(axes, radius) if 1e-100 < radius < 1e100 else None
    slices = _Slices(axes, radius)
    chosen: list[Envelope] = []
    for k, component in enumerate(components):
        own = GaussianComponent(component.mean, axes.variance[k].sqrt())
        found: list[Envelope] = [_SliceEnvelope(center, slices, axes, k)]
        if tilts is not None:
            found.append(_TiltedEnvelope(component.mean, tilts, axes, k))
        toward = axes.nearest[k] / own.factor
        depth = toward.norm()
        if float(depth) > 0:
            turned = GaussianComponent(torch.zeros_like(component.mean), own.factor)
            plane = HalfSpaceEnvelope(turned, toward / depth, depth)
            found.append(_RotatedEnvelope(component.mean, axes.turns[k], plane))
        else:
            found.append(Unrestricted(component))
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
            variances.append(component.factor.square())
            centers.append(gap)
            turns.append(None)
        else:
            turn, spread, _ = torch.linalg.svd(component.factor)
            variances.append(spread.square())
            centers.append(gap @ turn)
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


def _rotate_back(origin: Tensor, turn: Tensor | None, y: Tensor) -> Tensor:
    """Rows in the axes of a component, relative to an origin, as rows of the data."""
    return origin + (y if turn is None else y @ turn.mT)


class _RotatedEnvelope(Envelope):
    """An envelope in the axes of a component, rotated back."""

    name: ClassVar[str] = HalfSpaceEnvelope.name

    def __init__(self, mean: Tensor, turn: Tensor | None, inner: Envelope) -> None:
        self.mean, self.turn, self.inner = mean, turn, inner
        self.log_mass = inner.log_mass

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        y, log_accept = self.inner.draw(rows, generator)
        return _rotate_back(self.mean, self.turn, y), log_accept


class _ExponentialTilts:
    """The best `l >= 0` in `1 <= exp(l (R^2 - |y - a|^2) / 2)`, which holds within the ball.

    Under the factor a Gaussian stays one, of precision `P + l I`, and its mass is

        log M(l) = (l R^2 - sum log(1 + l e) - sum l a^2 / (1 + l e)) / 2,

    convex in l, least where the tilted mean of `|y - a|^2` is `R^2`: Chernoff's bound. The
    acceptance is of the order of one over the standard deviation of `l |y - a|^2 / 2`, whatever
    the probability: a twentieth in a hundred dimensions.
    """

    def __init__(self, axes: _PrincipalAxes, radius: float) -> None:
        e, a = axes.variance, axes.center
        square, d = radius**2, e.shape[-1]
        far = a.norm(dim=-1)
        high = torch.maximum(torch.full_like(far, 2 * d / square), 2 * far / radius / e.amin(-1))
        least = low = high * 1e-16
        for _ in range(_BISECTIONS):
            middle = (low * high).sqrt()
            tilted = 1 + middle.unsqueeze(-1) * e
            wide = (e / tilted + (a / tilted).square()).sum(-1) > square
            low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
        # Where no tilt is better, the bisection stays at its lower limit.
        self.tilt = torch.where(low > least, low, 0.0)
        le = self.tilt.unsqueeze(-1) * e
        lost = le.log1p() + self.tilt.unsqueeze(-1) * a.square() / (1 + le)
        self.log_mass = 0.5 * (self.tilt * square - lost.sum(-1))
        self.mean, self.spread = a * le / (1 + le), (e / (1 + le)).sqrt()
        self.square = square


class _TiltedEnvelope(Envelope):
    """Component k under its best exponential tilt."""

    name: ClassVar[str] = "a Gaussian drawn to the centre of the ball"

    def __init__(
        self, mean: Tensor, tilts: _ExponentialTilts, axes: _PrincipalAxes, k: int
    ) -> None:
        self.mean, self.turn, self.center = mean, axes.turns[k], axes.center[k]
        self.component = GaussianComponent(tilts.mean[k], tilts.spread[k])
        self.tilt, self.square = tilts.tilt[k], tilts.square
        self.log_mass = float(tilts.log_mass[k])

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        y = self.component.unwhiten(self.component.noise(rows, generator))
        missing = self.square - (y - self.center).square().sum(-1)
        return _rotate_back(self.mean, self.turn, y), -0.5 * self.tilt * missing


class _Slices:
    """The ball in slices, tilted along the normal at its nearest point y0.

    With `y = y0 + w` and s the depth of y below the plane that touches the ball there,

        log N(y) = log N(y0) - |g| s - w'Pw / 2,   |g| = lambda R,

    so a depth from `(2 R s - s^2)^((D - 1) / 2) exp(-|g| s)`, which is log-concave, and a uniform
    point of the slice at that depth are accepted with `exp(-w'Pw / 2)`. In units of 2 R the
    depth has `h(t) = m log t + m log(1 - t) - G t` with `m = (D - 1) / 2`, `G = 2 R |g|`.
    """

    def __init__(self, axes: _PrincipalAxes, radius: float) -> None:
        d, m = axes.variance.shape[-1], 0.5 * (axes.variance.shape[-1] - 1)
        steep = 2 * (radius * axes.pull) * radius
        mode = 2 * m / (steep + 2 * m + (steep.square() + 4 * m**2).sqrt())

        def log_density(t: Tensor, which: Tensor) -> Tensor:
            at = mode[which]
            return m * ((t / at).log1p() + (-t / (1 - at)).log1p()) - steep[which] * t

        def slope(t: Tensor, which: Tensor) -> Tensor:
            at = mode[which] + t
            return m / at - m / (1 - at) - steep[which]

        touch = tangent_points(log_density, slope, -mode, 1 - mode)
        self.hull = PiecewiseExponentialHull.of(log_density, slope, touch, -mode, 1 - mode)
        self.mode, self.radius, self.num_features = mode, radius, d
        height = m * (mode * (1 - mode)).log() - steep * mode
        disc = m * math.log(math.pi) - math.lgamma(m + 1)
        volume = d * math.log(2 * radius) + disc + height + self.hull.log_mass
        square = (axes.nearest.square() / axes.variance).sum(-1)
        peak = -0.5 * (square + (2 * math.pi * axes.variance).log().sum(-1))
        self.log_mass = peak + volume


class _SliceEnvelope(Envelope):
    """Component k in its slices of the ball."""

    name: ClassVar[str] = "the ball, tilted towards the component"

    def __init__(self, center: Tensor, slices: _Slices, axes: _PrincipalAxes, k: int) -> None:
        self.center, self.turn, self.k, self.slices = center, axes.turns[k], k, slices
        self.variance, self.from_nearest = axes.variance[k], axes.inward[k]
        inward = self.from_nearest if float(axes.pull[k]) > 0 else torch.ones_like(center)
        inward = inward / inward.abs().max()
        self.inward = inward / inward.norm()
        self.log_mass = float(slices.log_mass[k])

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        radius, like = self.slices.radius, self.center
        which = torch.full((rows,), self.k, dtype=torch.long, device=like.device)
        t, log_accept = self.slices.hull.propose(which, generator)
        t = self.slices.mode[self.k] + t
        # Relative to the centre of the ball, whose last digit may be larger than the radius.
        y = radius * (2 * t - 1).unsqueeze(-1) * self.inward
        d = self.slices.num_features
        z = torch.randn(rows, d, dtype=like.dtype, device=like.device, generator=generator)
        z = z - (z @ self.inward).unsqueeze(-1) * self.inward
        u = torch.rand(rows, dtype=like.dtype, device=like.device, generator=generator)
        size = 2 * radius * (t * (1 - t)).sqrt() * u ** (1 / (d - 1))
        y = y + (size / z.norm(dim=-1)).unsqueeze(-1) * z
        bend = ((y + self.from_nearest).square() / self.variance).sum(-1)
        return _rotate_back(self.center, self.turn, y), log_accept - 0.5 * bend

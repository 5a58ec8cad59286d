"""Envelopes of a Gaussian in a box: a product of truncated normals, or minimax tilting."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions.truncation.envelopes import Envelope, GaussianComponent
from gmm_lightning.distributions.truncation.tilting import Tilt, minimax_tilt, order_of_integration
from gmm_lightning.distributions.truncation.truncated import (
    TruncatedNormals,
    log_interval_mass,
    sample_truncated_normals,
)
from gmm_lightning.linalg import factor_of_rows


def box_envelope(component: GaussianComponent, lower: Tensor, upper: Tensor) -> Envelope:
    """The tightest envelope of a component in a box with ends `(D,)`."""
    if component.is_diagonal:
        return IndependentEnvelope(component, lower, upper)
    found: list[Envelope] = []
    if bool((upper - lower).isfinite().all()):
        centred = _BoxCentreEnvelope(component, lower, upper)
        if centred.keeps_digits:
            found.append(centred)
            if centred.largest_loss < 0.1:
                return centred
    found.append(_SequentialEnvelope(component, lower, upper))
    return min(found, key=lambda envelope: envelope.log_mass)


class IndependentEnvelope(Envelope):
    """Independent features: a product of truncated normals, whose mass is the probability."""

    name: ClassVar[str] = "the component within the box"

    def __init__(self, component: GaussianComponent, lower: Tensor, upper: Tensor) -> None:
        self.component, self.ends = component, (lower, upper)
        low, high = (
            (lower - component.mean) / component.factor,
            (upper - component.mean) / component.factor,
        )
        width = (upper - lower) / component.factor
        self.log_mass = float(log_interval_mass(low, high, width).sum())
        self.normals = TruncatedNormals(low, high, width)

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        d = len(self.component.mean)
        which = torch.arange(d, device=self.component.mean.device).repeat(rows)
        z = self.normals.draw(which, generator).view(rows, d)
        # A thin interval far from the mean ends between two floats.
        return self.component.unwhiten(z).clamp(*self.ends), z.new_zeros(rows)


class _BoxCentreEnvelope(Envelope):
    """Dependent features in a small box: independent ones around its centre c, that bound them.

    With `x = c + y`, g the slope at c and p the smallest eigenvalue of the precision P,

        log N(x) = log N(c) - g'y - y'Py / 2 <= log N(c) - g'y - p y'y / 2,

    a product of truncated normals; in a box that is thin for every eigenvalue both are equal.
    """

    name: ClassVar[str] = "independent features around the centre of the box"

    def __init__(self, component: GaussianComponent, lower: Tensor, upper: Tensor) -> None:
        self.center = 0.5 * (lower + upper)
        self.factor = component.factor
        white = torch.linalg.solve_triangular(
            component.factor, (self.center - component.mean)[:, None], upper=False
        )
        slope = torch.linalg.solve_triangular(component.factor.mT, white, upper=True).squeeze(-1)
        spread = torch.linalg.svdvals(component.factor)
        p = spread[0] ** -2
        self.p = float(p)
        self.largest_loss = float((upper - lower).square().sum() / spread[-1].square()) / 8
        move = slope / p
        # The terms of the mass cancel: their size decides how many digits are left.
        terms = 0.5 * slope * move
        self.keeps_digits = bool(terms.sum() < 1e6) and bool(
            (move.abs() < 1e9 * (upper - lower)).all()
        )
        self.inner = IndependentEnvelope(
            GaussianComponent(self.center - move, p.rsqrt().expand_as(move)), lower, upper
        )
        log_det = component.factor.diagonal().log().sum() + 0.5 * len(move) * p.log()
        self.log_mass = self.inner.log_mass + float(
            terms.sum() - log_det - 0.5 * white.square().sum()
        )

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        x, _ = self.inner.draw(rows, generator)
        y = x - self.center
        white = torch.linalg.solve_triangular(self.factor, y.mT, upper=False)
        return x, 0.5 * (self.p * y.square().sum(-1) - white.square().sum(0))


class _SequentialEnvelope(Envelope):
    """Dependent features: one truncated normal after the other, tilted by the saddle point.

    With `x - mu = diag(s) (I + A) z`, A strictly lower triangular, z_j given its predecessors is
    drawn from `N(tilt_j, 1)` between `(lower_j - mu_j) / s_j - (A z)_j` and the same of the upper
    end. The ratio of the product of their masses and tilts to its maximum is the acceptance.

    References:
        Z. I. Botev (2017), The normal law under linear restrictions: simulation and estimation
        via minimax tilting, JRSS B 79.
    """

    name: ClassVar[str] = "minimax tilting"
    cost: ClassVar[int] = 20

    def __init__(self, component: GaussianComponent, lower: Tensor, upper: Tensor) -> None:
        low, high = (lower - component.mean).cpu(), (upper - component.mean).cpu()
        factor = component.factor.cpu()
        order = order_of_integration(factor, low, high)
        # From the rows of the factor: the covariance itself would lose half of the digits.
        factor = factor_of_rows(factor[order])
        scale = factor.diagonal()
        strict = (factor / scale.unsqueeze(-1)).tril(-1)
        low, high = low[order] / scale, high[order] / scale
        width = (upper - lower).cpu()[order] / scale
        device = component.mean.device
        tilt: Tilt = minimax_tilt(strict, low, high, width)
        self.log_mass = tilt.log_bound
        self.tilt = tilt.values.to(device)
        self.strict = strict.to(device)
        self.low, self.high, self.width = low.to(device), high.to(device), width.to(device)
        self.mean = component.mean
        self.spread = scale.to(device)
        self.place = order.argsort().to(device)

    def draw(self, rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        d, like = len(self.mean), self.mean
        z = torch.zeros(rows, d, dtype=like.dtype, device=like.device)
        shift = torch.zeros_like(z)
        log_ratio = torch.zeros(rows, dtype=like.dtype, device=like.device)
        for j in range(d):
            shift[:, j] = z[:, :j] @ self.strict[j, :j]
            offset, tilt = shift[:, j] + self.tilt[j], self.tilt[j]
            low, high = self.low[j] - offset, self.high[j] - offset
            width = self.width[j].expand(rows)
            z[:, j] = tilt + sample_truncated_normals(low, high, width, generator)
            log_ratio += log_interval_mass(low, high, width) + tilt * (0.5 * tilt - z[:, j])
        x = ((z + shift) * self.spread)[:, self.place]
        return self.mean + x, log_ratio - self.log_mass

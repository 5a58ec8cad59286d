"""Envelopes of a Gaussian in a box: a product of truncated normals, or minimax tilting."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions.truncation.envelopes import Envelope, GaussianComponent
from gmm_lightning.distributions.truncation.tilting import minimax_tilt, order_of_integration
from gmm_lightning.distributions.truncation.truncated import (
    TruncatedNormals,
    log_interval_mass,
    sample_truncated_normals,
)
from gmm_lightning.linalg import factor_of_rows


def box_envelope(component: GaussianComponent, lower: Tensor, upper: Tensor) -> Envelope:
    """The tightest envelope of a component in a box with ends `(D,)`."""
    if component.is_diagonal:
        return independent_envelope(component, lower, upper)
    found: list[Envelope] = []
    if bool((upper - lower).isfinite().all()):
        centred, largest_loss = _box_centre_envelope(component, lower, upper)
        if centred is not None and largest_loss < 0.1:
            return centred
        found = [] if centred is None else [centred]
    found.append(_sequential_envelope(component, lower, upper))
    return min(found, key=lambda envelope: envelope.log_mass)


def independent_envelope(component: GaussianComponent, lower: Tensor, upper: Tensor) -> Envelope:
    """Envelope of independent features: truncated normals, whose mass is the probability."""
    mean, std = component.mean, component.factor
    ends = (lower - mean) / std, (upper - mean) / std, (upper - lower) / std
    normals = TruncatedNormals(*ends)

    def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        which = torch.arange(len(mean), device=mean.device).repeat(rows)
        z = normals.draw(which, generator).view(rows, -1)
        # The ends of a thin interval far from the mean may lie between two floats.
        return component.unwhiten(z).clamp(lower, upper), z.new_zeros(rows)

    return Envelope("the component within the box", float(log_interval_mass(*ends).sum()), draw)


def _box_centre_envelope(
    component: GaussianComponent, lower: Tensor, upper: Tensor
) -> tuple[Envelope | None, float]:
    """Envelope of dependent features in a small box: independent ones around its centre c.

    With `x = c + y`, g the slope at c and p the smallest eigenvalue of the precision P,

        log N(x) = log N(c) - g'y - y'Py / 2 <= log N(c) - g'y - p y'y / 2,

    a product of truncated normals; in a box that is thin for every eigenvalue both are equal.

    Returns:
        The envelope, or None where its mass would lose precision, and the largest gap of the
        bound in nats.
    """
    center, factor = 0.5 * (lower + upper), component.factor
    gap = (center - component.mean)[:, None]
    white = torch.linalg.solve_triangular(factor, gap, upper=False)
    slope = torch.linalg.solve_triangular(factor.mT, white, upper=True).squeeze(-1)
    spread = torch.linalg.svdvals(factor)
    p = spread[0] ** -2
    largest_loss = float((upper - lower).square().sum() / spread[-1].square()) / 8
    move = slope / p
    # The terms of the mass cancel: their size limits its precision.
    terms = 0.5 * slope * move
    if not (terms.sum() < 1e6 and (move.abs() < 1e9 * (upper - lower)).all()):
        return None, largest_loss
    spherical = GaussianComponent(center - move, p.rsqrt().expand_as(move))
    inner = independent_envelope(spherical, lower, upper)
    log_det = factor.diagonal().log().sum() + 0.5 * len(move) * p.log()
    log_mass = inner.log_mass + float(terms.sum() - log_det - 0.5 * white.square().sum())

    def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        x, _ = inner.draw(rows, generator)
        y = x - center
        white = torch.linalg.solve_triangular(factor, y.mT, upper=False)
        return x, 0.5 * (p * y.square().sum(-1) - white.square().sum(0))

    name = "independent features around the centre of the box"
    return Envelope(name, log_mass, draw), largest_loss


def _sequential_envelope(component: GaussianComponent, lower: Tensor, upper: Tensor) -> Envelope:
    """Envelope of dependent features: a sequence of truncated normals with minimax tilts.

    With `x - mu = diag(s) (I + A) z`, A strictly lower triangular, z_j given its predecessors is
    drawn from `N(tilt_j, 1)` between `(lower_j - mu_j) / s_j - (A z)_j` and the same of the upper
    end. The ratio of the product of their masses and tilts to its maximum is the acceptance.
    """
    mean, device = component.mean, component.mean.device
    # The search for the tilt takes many small steps, which are fastest on a CPU.
    low, high, factor = (v.cpu() for v in (lower - mean, upper - mean, component.factor))
    order = order_of_integration(factor, low, high)
    # From the rows of the factor: forming the covariance would lose half of the digits.
    factor = factor_of_rows(factor[order])
    scale = factor.diagonal()
    strict = (factor / scale.unsqueeze(-1)).tril(-1)
    low, high, width = low[order] / scale, high[order] / scale, (upper - lower).cpu()[order] / scale
    tilts, log_mass = minimax_tilt(strict, low, high, width)
    tilts, strict, low, high, width, scale, place = (
        v.to(device) for v in (tilts, strict, low, high, width, scale, order.argsort())
    )

    def draw(rows: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        z = mean.new_zeros(rows, len(mean))
        shift, log_ratio = torch.zeros_like(z), mean.new_zeros(rows)
        for j, tilt in enumerate(tilts):
            shift[:, j] = z[:, :j] @ strict[j, :j]
            offset = shift[:, j] + tilt
            ends = low[j] - offset, high[j] - offset, width[j].expand(rows)
            z[:, j] = tilt + sample_truncated_normals(*ends, generator)
            log_ratio += log_interval_mass(*ends) + tilt * (0.5 * tilt - z[:, j])
        return mean + ((z + shift) * scale)[:, place], log_ratio - log_mass

    return Envelope("minimax tilting", log_mass, draw, cost=20)

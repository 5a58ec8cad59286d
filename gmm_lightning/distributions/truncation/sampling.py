"""Exact sampling from a mixture within a region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Size, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions._ancestral import choose_components, unwhiten_rows
from gmm_lightning.distributions.truncation.envelopes import GaussianComponent
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion
from gmm_lightning.distributions.truncation.rejection import rejection_sample
from gmm_lightning.distributions.truncation.shells import MahalanobisRegion
from gmm_lightning.distributions.truncation.truncated import sample_truncated_chi
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import full_precision

Region = EuclideanRegion | MahalanobisRegion


class TemperedMixture(NamedTuple):
    """Parameters of a mixture in double precision, with covariances `(spread L)(spread L)'`.

    Shape:
        log_weights `(*B, K)`, means `(*B, K, D)`, scale `(*B, G, ...)`.
    """

    covariance: Covariance
    log_weights: Tensor
    means: Tensor
    scale: Tensor
    spread: float


def sample_within(
    region: Region,
    mixture: TemperedMixture,
    shape: Size,
    component: Tensor | None,
    dtype: torch.dtype,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """Samples `(*S, *B, D)` of a mixture within a region, and their components `(*S, *B)`.

    Raises:
        InvalidArgumentError: a region for rows of another width.
        RegionError: too little of the mixture lies in the region.
    """
    region.check(mixture.means.shape[-1])
    with full_precision(mixture.means.device):
        if isinstance(region, MahalanobisRegion):
            x, z = _sample_mahalanobis(region, mixture, shape, component, generator)
        else:
            x, z = _sample_euclidean(region, mixture, shape, component, dtype, generator)
    return x.to(dtype), z


def _sample_mahalanobis(
    region: MahalanobisRegion,
    mixture: TemperedMixture,
    shape: Size,
    component: Tensor | None,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """`x = mu_z + r L_z u`: r of a truncated chi distribution, u uniform on the sphere."""
    d = mixture.means.shape[-1]
    low, high = region.radii(d)
    if not low < high:
        raise InvalidArgumentError(f"{region!r} has no width in {d} dimensions")
    z = component
    if z is None:
        z = choose_components(mixture.log_weights.exp(), shape, generator)
    like = mixture.means
    noise = torch.randn(*shape, d, dtype=like.dtype, device=like.device, generator=generator)
    length = sample_truncated_chi(math.prod(shape), d, low, high, like, generator).view(shape)
    noise *= (length / noise.norm(dim=-1)).unsqueeze(-1)
    if mixture.means.dim() > 2:
        noise *= mixture.spread
        return unwhiten_rows(mixture.covariance, mixture.means, mixture.scale, z, noise), z
    # Without a batch, one product for all rows of a component.
    drawn, flat, which = torch.empty_like(noise).view(-1, d), noise.view(-1, d), z.reshape(-1)
    for one in which.unique().tolist():
        mine = (which == one).nonzero().squeeze(-1)
        drawn[mine] = _components_of(mixture, [one])[0].unwhiten(flat[mine])
    return drawn.view(*shape, d), z


def _sample_euclidean(
    region: EuclideanRegion,
    mixture: TemperedMixture,
    shape: Size,
    component: Tensor | None,
    dtype: torch.dtype,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """Component and row jointly by rejection, for each mixture of the batch."""
    *batch, k, d = mixture.means.shape
    cells = math.prod(batch)
    x = mixture.means.new_empty(math.prod(shape) // cells, cells, d, dtype=dtype)
    z = torch.empty(x.shape[:2], dtype=torch.long, device=x.device)
    asked = None if component is None else component.reshape(z.shape)
    log_weights = mixture.log_weights.reshape(cells, k)
    draw = partial(
        rejection_sample,
        contains=region.contains,
        dtype=dtype,
        max_refused=region.max_refused,
        generator=generator,
    )
    pairs = torch.arange(cells * k, device=x.device)
    if asked is not None:
        pairs = (pairs[::k] + asked).unique()
    listed = pairs.tolist()
    envelopes = dict(zip(listed, region.envelopes(_components_of(mixture, listed)), strict=True))
    for cell in range(cells):
        if asked is None:
            own = [envelopes[cell * k + one] for one in range(k)]
            x[:, cell], z[:, cell] = draw(own, log_weights[cell], (len(x), d))
            continue
        z[:, cell] = asked[:, cell]
        for one in asked[:, cell].unique().tolist():
            mine = asked[:, cell] == one
            alone = log_weights.new_zeros(1)
            own = [envelopes[cell * k + one]]
            x[mine, cell] = draw(own, alone, (int(mine.sum()), d))[0]
    return x.reshape(*shape, d), z.reshape(shape)


def _components_of(mixture: TemperedMixture, pairs: Sequence[int]) -> list[GaussianComponent]:
    """Components `cell * K + k`, cell in the batch, with diagonal factors as vectors."""
    *batch, k, d = mixture.means.shape
    means = mixture.means.reshape(-1, d)
    scale = mixture.scale.reshape(-1, *mixture.scale.shape[len(batch) + 1 :])
    groups = mixture.scale.shape[len(batch)]
    # Where components share a covariance, they share its factor here too.
    rows = {pair: pair if groups == k else pair // k for pair in pairs}
    factors: dict[int, Tensor] = {}
    for row in sorted(set(rows.values())):
        factor = mixture.spread * mixture.covariance.scale_tril(scale[row : row + 1], d)[0]
        diagonal = not bool(factor.tril(-1).any())
        factors[row] = factor.diagonal().clone() if diagonal else factor
    return [GaussianComponent(means[pair], factors[row]) for pair, row in rows.items()]

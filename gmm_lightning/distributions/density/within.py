"""Exact samples from a mixture within a region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Size, Tensor

from gmm_lightning._messages import describe
from gmm_lightning.distributions.density.ancestral import choose_components, unwhiten_rows
from gmm_lightning.distributions.density.mixture_density import MixtureDensity
from gmm_lightning.distributions.density.noise import standard_normals
from gmm_lightning.distributions.truncation import (
    EuclideanRegion,
    GaussianComponent,
    Region,
    rejection_sample,
    sample_truncated_chi,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import full_precision


def sample_within(
    region: Region,
    mixture: MixtureDensity,
    shape: Size,
    component: Tensor | None,
    dtype: torch.dtype,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """Samples `(*S, *B, D)` of a mixture within a region, and their components `(*S, *B)`."""
    means, d = mixture.means, mixture.num_features
    with full_precision(means.device):
        if isinstance(region, EuclideanRegion):
            x = means.new_empty(*shape, d, dtype=dtype)
            return _sample_euclidean(region, mixture, x, component, generator)
        low, high = region.radii(d)
        if not low < high:
            raise InvalidArgumentError(f"{describe(region)} has no width in {d} dimensions")
        if component is None:
            component = choose_components(mixture.weights, shape, generator)
        noise = standard_normals(means, (*shape, d), generator)
        length = sample_truncated_chi(d, low, high, noise[..., 0], generator)
        noise *= (length / noise.norm(dim=-1)).unsqueeze(-1)
        return unwhiten_rows(mixture, component, noise).to(dtype), component


def _sample_euclidean(
    region: EuclideanRegion,
    mixture: MixtureDensity,
    x: Tensor,
    component: Tensor | None,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """Rows and components, drawn jointly by rejection for each mixture of the batch."""
    cells, k = mixture.batch_shape.numel(), mixture.num_components
    rows = x.view(-1, cells, mixture.num_features)
    log_weights = mixture.log_weights.reshape(cells, k)
    if component is None:
        envelopes = region.envelopes(_components_of(mixture, range(cells * k)))
        z = torch.empty(rows.shape[:2], dtype=torch.long, device=x.device)
        for cell, own in enumerate(log_weights):
            mine = envelopes[cell * k : (cell + 1) * k]
            drawn = rejection_sample(region, mine, own, rows[:, cell], generator)
            rows[:, cell], z[:, cell] = drawn
        return x, z.view(x.shape[:-1])
    which = k * torch.arange(cells, device=x.device) + component.reshape(rows.shape[:2])
    pairs = which.unique().tolist()
    for pair, envelope in zip(pairs, region.envelopes(_components_of(mixture, pairs)), strict=True):
        mine, alone = which == pair, log_weights.new_zeros(1)
        rows[mine], _ = rejection_sample(region, [envelope], alone, rows[mine], generator)
    return x, component


def _components_of(mixture: MixtureDensity, pairs: Sequence[int]) -> list[GaussianComponent]:
    """Components `cell * K + k`, cell in the batch, with diagonal factors as vectors."""
    d = mixture.num_features
    means, scale = mixture.means.reshape(-1, d), mixture.scale.flatten(0, len(mixture.batch_shape))
    # Where components share a covariance, they share its factor here too.
    rows = [pair * len(scale) // len(means) for pair in pairs]
    factors: dict[int, Tensor] = {}
    for row in sorted(set(rows)):
        factor = mixture.covariance.scale_tril(scale[row : row + 1], d)[0]
        diagonal = not bool(factor.tril(-1).any())
        factors[row] = factor.diagonal().clone() if diagonal else factor
    return [
        GaussianComponent(means[pair], factors[row]) for pair, row in zip(pairs, rows, strict=True)
    ]

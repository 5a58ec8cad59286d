"""Ancestral sampling: a component per row, then a coloured standard normal."""

from __future__ import annotations

import math

import torch
from torch import Generator, Size, Tensor

from gmm_lightning.covariances import Covariance

# Numbers gathered at once, so that n dense factors never stand in memory together.
GATHER_LIMIT = 1 << 22


def choose_components(weights: Tensor, shape: Size, generator: Generator | None) -> Tensor:
    """Component indices of shape `(*S, *B)`, drawn from weights `(*B, K)`."""
    if math.prod(shape) == 0:
        return torch.zeros(shape, dtype=torch.long, device=weights.device)
    table = weights.reshape(-1, weights.shape[-1])
    rows = math.prod(shape) // table.shape[0]
    return torch.multinomial(table, rows, replacement=True, generator=generator).T.reshape(shape)


def unwhiten_rows(
    family: Covariance, means: Tensor, scale: Tensor, component: Tensor, noise: Tensor
) -> Tensor:
    """`mu_z + L_z noise` row by row, with the factors gathered in bounded portions.

    Shape:
        means `(*B, K, D)`, scale `(*B, G, ...)`, component `(*S, *B)`, noise `(*S, *B, D)`.
    """
    *batch, k, d = means.shape
    cell = torch.arange(math.prod(batch), device=means.device).reshape(batch)
    cell = cell.expand(component.shape)
    groups = scale.shape[len(batch)]
    which = (cell * groups + (component if groups > 1 else 0)).reshape(-1)
    table = scale.reshape(-1, *scale.shape[len(batch) + 1 :])
    centre = means.reshape(-1, d)[(cell * k + component).reshape(-1)]
    size = max(1, GATHER_LIMIT // max(1, table[0].numel()))
    # Filled in place: small results kept between large portions would splinter the heap.
    coloured = torch.empty_like(centre)
    portions = (values.split(size) for values in (which, noise.reshape(-1, d), coloured))
    for index, rows, place in zip(*portions, strict=True):
        place.copy_(family.unwhiten(table[index], rows))
    return (centre + coloured).reshape(noise.shape)

"""Ancestral sampling: a component per row, then a normal with its mean and covariance."""

from __future__ import annotations

import math

import torch
from torch import Generator, Size, Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.covariances import Covariance


def choose_components(weights: Tensor, shape: Size, generator: Generator | None) -> Tensor:
    """Component indices of shape `(*S, *B)`, drawn with weights `(*B, K)`."""
    if math.prod(shape) == 0:
        return torch.zeros(shape, dtype=torch.long, device=weights.device)
    table = weights.reshape(-1, weights.shape[-1])
    rows = math.prod(shape) // table.shape[0]
    return torch.multinomial(table, rows, replacement=True, generator=generator).T.reshape(shape)


def unwhiten_rows(
    family: Covariance, means: Tensor, scale: Tensor, component: Tensor, noise: Tensor
) -> Tensor:
    """`mu_z + L_z noise` row by row, with the factors gathered in chunks.

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
    size = rows_per_chunk(table[0].numel(), scale, in_cache=False)
    # Filled in place: small results kept between large chunks would splinter the heap.
    correlated = torch.empty_like(centre)
    chunks = (values.split(size) for values in (which, noise.reshape(-1, d), correlated))
    for index, rows, place in zip(*chunks, strict=True):
        place.copy_(family.unwhiten(table[index], rows))
    return (centre + correlated).reshape(noise.shape)

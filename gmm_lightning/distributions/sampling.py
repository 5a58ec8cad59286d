"""Ancestral sampling: a component per row, then a coloured standard normal."""

from __future__ import annotations

import math

import torch
from torch import Generator, Size, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import InvalidArgumentError

# Numbers gathered at once, so that n dense factors never stand in memory together.
GATHER_LIMIT = 1 << 22


def choose_components(weights: Tensor, shape: Size, generator: Generator | None) -> Tensor:
    """Component indices of shape `(*S, *B)`, drawn from weights `(*B, K)`."""
    if math.prod(shape) == 0:
        return torch.zeros(shape, dtype=torch.long, device=weights.device)
    table = weights.reshape(-1, weights.shape[-1])
    rows = math.prod(shape) // table.shape[0]
    return torch.multinomial(table, rows, replacement=True, generator=generator).T.reshape(shape)


def as_index(component: int | Tensor) -> Tensor:
    """Component indices as a tensor of integers.

    Raises:
        InvalidArgumentError: anything but integers.
    """
    try:
        index = torch.as_tensor(component)
    except (TypeError, ValueError, RuntimeError):
        index = torch.zeros(())
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InvalidArgumentError(f"component must be an integer index, got {component!r}")
    return index.long()


def check_range(index: Tensor, num_components: int) -> None:
    """Raise unless all indices are in `[0, K)`."""
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < num_components):
        few = index.tolist() if index.numel() <= 10 else f"{int(index.min())} to {int(index.max())}"
        raise InvalidArgumentError(f"component must be in [0, {num_components}), got {few}")


def given_components(component: int | Tensor, shape: Size, weights: Tensor) -> Tensor:
    """The asked-for component indices, checked and expanded to shape `(*S, *B)`.

    Raises:
        InvalidArgumentError: not integers, out of range, or of a shape that does not broadcast.
    """
    index = as_index(component).to(weights.device)
    check_range(index, weights.shape[-1])
    try:
        return index.expand(shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"component must broadcast to {tuple(shape)}, got shape {tuple(index.shape)}"
        ) from None


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

"""Weights and masks of rows in losses, and means by them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor

from gmm_lightning._messages import format_value
from gmm_lightning._validation import require_weights
from gmm_lightning.errors import InvalidArgumentError


def row_weights(
    shape: Size, like: Tensor, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor | None:
    """Weights `shape` of rows, 0 where the mask is False; None where every row counts once.

    Args:
        shape: `(*S, *B)`.
        like: gives dtype and device.
        weight: finite and at least 0 where the mask is True, broadcasts to the shape.
        mask: booleans, True for rows that count, broadcasts to the shape.

    Raises:
        InvalidArgumentError: no tensor, a shape that does not broadcast, or a mask of numbers.
        InvalidDataError: weights that are negative or not finite, by row.

    Example:
        >>> rows, mask = torch.zeros(3), torch.tensor([True, False, True])
        >>> row_weights(rows.shape, rows, torch.tensor([2.0, float("nan"), 1.0]), mask)
        tensor([2., 0., 1.])
    """
    if weight is None and mask is None:
        return None
    weights = None if weight is None else _expand("weight", weight, shape).to(like)
    if mask is not None:
        counted = _expand("mask", mask, shape).to(like.device)
        if counted.dtype != torch.bool:
            raise InvalidArgumentError(
                f"mask must be boolean, True for rows that count, got {counted.dtype}; write "
                "mask.bool(), or weight= for weights"
            )
        weights = keep_weights(weights, counted, like)
    if weight is not None and weights is not None:
        require_weights(weights.detach().reshape(-1), "weight")
        # No gradient goes to a weight of 0: what its row holds is not looked at.
        weights = torch.where(weights == 0, 0.0, weights)
    return weights


def keep_weights(weights: Tensor | None, kept: Tensor, like: Tensor) -> Tensor:
    """Weights of the rows that a mask keeps, 0 for the others; None stands for ones."""
    return kept.to(like.dtype) if weights is None else torch.where(kept, weights, 0.0)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean `sum_n w_n v_n / sum_n w_n` of finite values, `()`; 0 if all weights are 0.

    Args:
        values: `(*S, *B)`.
        weights: of that shape, or None for equal ones.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
        tensor(2.)
    """
    if weights is None:
        return values.sum() / max(1, values.numel())
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)


def _expand(name: str, given: Any, shape: Size) -> Tensor:
    if not isinstance(given, Tensor):
        raise InvalidArgumentError(f"expected {name} {tuple(shape)}, got {format_value(given)}")
    try:
        return given.expand(shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"{name} must broadcast to the shape of the rows, {tuple(shape)}, got "
            f"{format_value(given)}"
        ) from None

"""A linear map and a value per row of its result, without the result of all rows at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gmm_lightning._chunking import rows_per_chunk

PerRow = Callable[[Tensor, Tensor], Tensor]


def rows_at_once(width: int, device: torch.device) -> int:
    """Rows of a chunk."""
    return max(64, rows_per_chunk(width, torch.empty((), device=device)))


class ChunkedRows(torch.autograd.Function):
    """`value(h W' + b, y)` per row, `(N,)`, with gradients to h, W, b and y.

    The graph of a chunk is run forwards and backwards while it is in the cache; what is kept is
    the gradient by the linear map's result, one array `(N, Q)`, as large as what `nn.Linear`
    alone would keep. A gradient of this gradient is taken through the whole graph instead.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, y: Tensor, value: PerRow
    ) -> Tensor:
        values = y.new_empty(len(h))
        by_target = torch.empty_like(y) if y.requires_grad else None
        step = rows_at_once(len(bias), h.device)
        space = h.new_empty(min(step, len(h)), len(bias))
        by_result = []
        for rows in portions(len(h), step):
            part = h[rows]
            result = torch.addmm(bias, part, weight.mT, out=space[: len(part)])
            result = result.detach().requires_grad_()
            target = y[rows].detach().requires_grad_(y.requires_grad)
            with torch.enable_grad():
                of_rows = value(result, target)
                wanted = (result,) if by_target is None else (result, target)
                found = torch.autograd.grad(of_rows.sum(), wanted)
            values[rows] = of_rows.detach()
            by_result.append(found[0])
            if by_target is not None:
                by_target[rows] = found[1]
        ctx.save_for_backward(h, weight, bias, y, by_target, *by_result)
        ctx.value = value
        return values

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_value: Tensor
    ) -> tuple[Tensor | None, ...]:
        h, weight, bias, y, by_target, *by_result = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (h, weight, bias, y)
            values = ctx.value(functional.linear(h, weight, bias), y)
            wanted = [
                each for each, need in zip(inputs, ctx.needs_input_grad, strict=False) if need
            ]
            found = iter(torch.autograd.grad(values, wanted, by_value, create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:4]), None
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        by_h = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        factor = by_value.unsqueeze(-1)
        chunks = portions(len(h), rows_at_once(len(bias), h.device))
        for rows, part in zip(chunks, by_result, strict=True):
            # Features are fewer than parameters: they take the factors.
            by_weight.addmm_(part.mT, factor[rows] * h[rows])
            by_bias.addmv_(part.mT, by_value[rows])
            if by_h is not None:
                torch.mm(part, weight, out=by_h[rows]).mul_(factor[rows])
        by_y = None if by_target is None else by_target * factor
        return by_h, by_weight, by_bias, by_y, None


def portions(n: int, step: int) -> list[slice]:
    """Slices of n rows, so many at a time."""
    return [slice(start, start + step) for start in range(0, n, step)]

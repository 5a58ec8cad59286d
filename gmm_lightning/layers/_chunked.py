"""Functions of the outputs of a linear map, without the outputs of all rows in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gmm_lightning._chunking import rows_per_chunk

PerRow = Callable[[Tensor, Tensor], Tensor]


def map_linear_chunks(
    function: PerRow, h: Tensor, weight: Tensor, bias: Tensor, y: Tensor
) -> Tensor:
    """Values `function(h W' + b, y)`, `(N,)`, a chunk of rows at a time.

    Shape:
        h `(N, P)`, weight W `(Q, P)`, bias b `(Q,)`, y `(N, D)`.
    """
    step = _rows_per_chunk(bias)
    if len(h) <= step:
        return function(functional.linear(h, weight, bias), y)
    parts = (h, weight, bias, y)
    if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
        values: Any = _LinearChunks.apply(*parts, function)
        return values
    chunks = zip(h.split(step), y.split(step), strict=True)
    return torch.cat([function(functional.linear(r, weight, bias), t) for r, t in chunks])


class _LinearChunks(torch.autograd.Function):
    """`map_linear_chunks` with gradients to h, W, b and y.

    A chunk is run forwards and backwards while it is in the cache. The gradient by the outputs is
    kept, `(N, Q)`. Gradients of gradients are taken through the whole graph instead.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, y: Tensor, function: PerRow
    ) -> Tensor:
        values = y.new_empty(len(h))
        y_grad = torch.empty_like(y) if y.requires_grad else None
        step = _rows_per_chunk(bias)
        buffer = h.new_empty(min(step, len(h)), len(bias))
        output_grads = []
        for rows in _chunks(len(h), step):
            part = h[rows]
            outputs = torch.addmm(bias, part, weight.mT, out=buffer[: len(part)])
            outputs = outputs.detach().requires_grad_()
            targets = y[rows].detach().requires_grad_(y.requires_grad)
            with torch.enable_grad():
                own = function(outputs, targets)
                inputs = (outputs,) if y_grad is None else (outputs, targets)
                grads = torch.autograd.grad(own.sum(), inputs)
            values[rows] = own.detach()
            output_grads.append(grads[0])
            if y_grad is not None:
                y_grad[rows] = grads[1]
        ctx.save_for_backward(h, weight, bias, y, y_grad, *output_grads)
        ctx.function = function
        return values

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        h, weight, bias, y, y_grad, *output_grads = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs, needed = (h, weight, bias, y), ctx.needs_input_grad[:4]
            values = ctx.function(functional.linear(h, weight, bias), y)
            wanted = [each for each, need in zip(inputs, needed, strict=True) if need]
            grads = iter(torch.autograd.grad(values, wanted, grad, create_graph=True))
            return *(next(grads) if need else None for need in needed), None
        weight_grad, bias_grad = torch.zeros_like(weight), torch.zeros_like(bias)
        h_grad = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        factor = grad.unsqueeze(-1)
        for rows, part in zip(_chunks(len(h), _rows_per_chunk(bias)), output_grads, strict=True):
            # There are fewer features than outputs: the factors are applied to them.
            weight_grad.addmm_(part.mT, factor[rows] * h[rows])
            bias_grad.addmv_(part.mT, grad[rows])
            if h_grad is not None:
                torch.mm(part, weight, out=h_grad[rows]).mul_(factor[rows])
        return h_grad, weight_grad, bias_grad, None if y_grad is None else y_grad * factor, None


def _rows_per_chunk(bias: Tensor) -> int:
    return max(64, rows_per_chunk(len(bias), bias))


def _chunks(n: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, n, step)]

"""Functions of single rows, without the intermediate results of all rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._tracing import is_tracing, is_transformed
from gmm_lightning.linalg import full_precision


def map_row_chunks(
    call: Callable[..., Tensor],
    rows: tuple[Tensor, ...],
    shared: tuple[Tensor | None, ...],
    lead: int,
) -> Tensor:
    """Values `call(*rows, *shared)`, `(*S, *B)`, a chunk of rows at a time.

    Only the arguments are kept: backwards, a chunk is computed again, also where gradients of
    gradients follow. Traced graphs, `torch.func` and forward derivatives take all rows at once.

    Args:
        call: function of rows `(*S, *B, ...)`, one value for each.
        rows: arguments of that shape, the widest first.
        shared: arguments that all rows share.
        lead: length of S.
    """
    # Reading a size would fix it in a traced graph.
    if is_tracing() or is_transformed(*rows, *shared):
        return call(*rows, *shared)
    shape, step = rows[0].shape[:lead], _rows_per_chunk(rows[0], lead)
    if shape.numel() <= step:
        return call(*rows, *shared)
    flat = [each.reshape(-1, *each.shape[lead:]) for each in rows]
    values: Any = _RowChunks.apply(call, step, len(rows), *flat, *shared)
    return values.unflatten(0, shape)


class _RowChunks(torch.autograd.Function):
    """`map_row_chunks` with gradients to all tensors, of which the first ones are split."""

    @staticmethod
    def forward(
        ctx: Any, call: Callable[..., Tensor], step: int, num_split: int, *tensors: Tensor | None
    ) -> Tensor:
        ctx.call, ctx.step, ctx.num_split = call, step, num_split
        ctx.save_for_backward(*tensors)
        return torch.cat([call(*part) for part in _chunks(tensors, step, num_split)])

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        step, num_split, needed = ctx.step, ctx.num_split, ctx.needs_input_grad[3:]
        # With gradients of gradients, chunks stay connected to the tensors that they are parts of.
        create_graph = torch.is_grad_enabled()
        grads: list[Tensor | None] = [None] * len(needed)
        tensors = (grad, *ctx.saved_tensors)
        for number, (own, *part) in enumerate(_chunks(tensors, step, 1 + num_split)):
            leaves = {at: part[at] for at, need in enumerate(needed) if need}
            # Autocast may be on again, and has a dtype of its own for each operation.
            with torch.enable_grad(), full_precision(grad.device):
                if not create_graph:
                    leaves = {at: leaf.detach().requires_grad_() for at, leaf in leaves.items()}
                values = ctx.call(*(leaves.get(at, value) for at, value in enumerate(part)))
                found = torch.autograd.grad(
                    values, [*leaves.values()], own, create_graph=create_graph
                )
            for at, one in zip(leaves, found, strict=True):
                total, split = grads[at], at < num_split
                if total is None:
                    # From a gradient: that one may be batched.
                    size = (len(grad), *one.shape[1:])
                    total = one.new_empty(size) if split else one.new_zeros(one.shape)
                    grads[at] = total
                rows = slice(number * step, (number + 1) * step)
                if split:
                    total[rows] = one
                else:
                    total += one
        return None, None, None, *grads


def _chunks(tensors: tuple[Any, ...], step: int, num_split: int) -> Iterator[tuple[Any, ...]]:
    """Parts of the first tensors, with the others whole."""
    split, shared = tensors[:num_split], tensors[num_split:]
    for part in zip(*(each.split(step) for each in split), strict=True):
        yield *part, *shared


def _rows_per_chunk(rows: Tensor, lead: int) -> int:
    return max(64, rows_per_chunk(rows.shape[lead:].numel(), rows))

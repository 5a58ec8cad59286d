"""Functions of single rows, without the intermediate results of all rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._validation import is_tracing


@dataclass(frozen=True)
class RowFunction:
    """A function of rows, one value for each, and how to take them apart.

    Attributes:
        call: function of `num_split` arguments `(n, *B, ...)`, and of others that all rows share.
        num_split: number of arguments that are split.
        step: rows of a chunk.
    """

    call: Callable[..., Tensor]
    num_split: int
    step: int

    def chunks(self, tensors: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """The arguments of each chunk."""
        rows, shared = tensors[: self.num_split], tensors[self.num_split :]
        for part in zip(*(each.split(self.step) for each in rows), strict=True):
            yield *part, *shared

    def of(self, positions: list[int], arguments: Any) -> Callable[..., Tensor]:
        """The function of the arguments at some positions alone."""

        def of(*values: Tensor) -> Tensor:
            given = dict(zip(positions, values, strict=True))
            return self.call(*(given.get(at, value) for at, value in enumerate(arguments)))

        return of


def map_row_chunks(
    call: Callable[..., Tensor], rows: tuple[Tensor, ...], shared: tuple[Tensor | None, ...]
) -> Tensor:
    """Values `call(*rows, *shared)`, `(N, *B)`, a chunk of rows at a time.

    Only the arguments are kept: backwards, a chunk is computed again. Derivatives of any order,
    forwards and backwards, and `torch.func` work as without chunks.

    Args:
        call: function of rows `(n, *B, ...)`, one value for each.
        rows: arguments `(N, *B, ...)`, the widest first.
        shared: arguments that all rows share.
    """
    # Reading a size would fix it in a traced graph.
    if is_tracing() or len(rows[0]) <= _rows_per_chunk(rows[0]):
        return call(*rows, *shared)
    function = RowFunction(call, len(rows), _rows_per_chunk(rows[0]))
    values: Any = _RowChunks.apply(function, *rows, *shared)
    return values


class _RowChunks(torch.autograd.Function):
    """`map_row_chunks` with derivatives in all tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: RowFunction, *tensors: Tensor | None) -> Tensor:
        return torch.cat([function.call(*part) for part in function.chunks(tensors)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.function, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        function: RowFunction = ctx.function
        wanted = [at for at, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        found = []
        chunks = function.chunks(ctx.saved_tensors)
        for own, part in zip(grad.split(function.step), chunks, strict=True):
            pull = torch.func.vjp(function.of(wanted, part), *(part[at] for at in wanted))[1]
            found.append(pull(own))
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for at, parts in zip(wanted, zip(*found, strict=True), strict=True):
            split = at < function.num_split
            grads[1 + at] = torch.cat(parts) if split else torch.stack(parts).sum(0)
        return tuple(grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        saved = ctx.saved_tensors
        moving = [at for at, tangent in enumerate(tangents[1:]) if tangent is not None]
        function = ctx.function.of(moving, saved)
        values, pull, *_ = torch.func.vjp(function, *(saved[at] for at in moving))
        # By transposing twice: torch nests no forward derivatives in others.
        push = torch.func.vjp(pull, torch.zeros_like(values))[1]
        return push(tuple(tangents[1 + at] for at in moving))[0]


def _rows_per_chunk(rows: Tensor) -> int:
    return max(64, rows_per_chunk(rows.shape[1:].numel(), rows))

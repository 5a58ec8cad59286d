"""Chunk sizes, from one memory budget for the whole package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gmm_lightning._tracing import is_tracing
from gmm_lightning.rows import Batch

# Intermediate results of a chunk stay in the second-level cache of a CPU core; a GPU wants
# large launches instead. Where only memory matters, up to MEMORY_BYTES may be used beside the
# result.
CACHE_BYTES, GPU_BYTES, MEMORY_BYTES = 3 << 19, 1 << 28, 1 << 25


def rows_per_chunk(numbers_per_row: int, like: Tensor, *, in_cache: bool = True) -> int:
    """Number of rows whose intermediate results fit into the budget, at least 1.

    Args:
        numbers_per_row: how many numbers of the dtype of `like` a row needs.
        like: gives dtype and device.
        in_cache: True: stay in the cache; False: only bound the memory.

    Example:
        >>> rows_per_chunk(64, torch.zeros((), dtype=torch.float64))
        3072
    """
    cached = CACHE_BYTES if like.device.type == "cpu" else GPU_BYTES
    budget = cached if in_cache else max(cached, MEMORY_BYTES)
    return max(1, budget // (like.element_size() * max(1, numbers_per_row)))


def map_chunks(
    function: Callable[[Any], Tensor],
    x: Tensor | Batch,
    *,
    batch_dims: int,
    numbers_per_row: int,
    module: nn.Module,
) -> Tensor:
    """Values `function(x)` of rows `(*S, *B, D)`, a chunk of S at a time where that saves memory.

    The choice depends on shapes only. Nothing is split while a graph is traced, compiled or
    exported, nor where gradients would keep every chunk alive anyway.

    Args:
        function: works on rows `(n, *B, D)` and returns one result per row.
        x: the rows, or a `Batch` of them.
        batch_dims: length of B.
        numbers_per_row: how many intermediate numbers a row needs.
        module: the module whose parameters may require gradients.
    """
    # Reading a size would fix it in a traced graph.
    if is_tracing():
        return function(x)
    rows = x.x if isinstance(x, Batch) else x
    lead = rows.dim() - 1 - batch_dims
    num_rows = rows.shape[:lead].numel() if lead > 0 else 0
    size = rows_per_chunk(numbers_per_row, next(module.parameters(), rows))
    if num_rows <= size:
        return function(x)
    if torch.is_grad_enabled() and (
        rows.requires_grad or any(p.requires_grad for p in module.parameters())
    ):
        return function(x)
    flat = x if isinstance(x, Batch) and lead == 1 else rows.reshape(-1, *rows.shape[lead:])
    joined = torch.cat([function(part) for part in flat.split(size)])
    return joined.reshape(*rows.shape[:lead], *joined.shape[1:])

"""Large inputs without gradients: portion by portion, so that only the answer takes memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gmm_lightning.errors import InvalidArgumentError

# Numbers of whitened differences at once, rows x mixtures x K x D: on a CPU they stay in the
# second-level cache, elsewhere there is more room.
AT_ONCE, MORE = 1 << 18, 128


def in_portions(
    layer: nn.Module, x: Tensor, batch_dims: int, per_row: int, answer: Callable[[Tensor], Tensor]
) -> Tensor:
    """`answer(x)` for rows `(*S, *B, D)`, a portion of S at a time where that saves memory.

    Only shapes decide, and a graph that is recorded, compiled or exported is left whole.
    """
    # Asking for a size would fix it in what is recorded.
    if recorded():
        return answer(x)
    if not isinstance(x, Tensor):
        raise InvalidArgumentError(
            f"expected rows as a tensor, got {type(x).__name__}; write torch.as_tensor(x)"
        )
    lead = x.dim() - 1 - batch_dims
    rows = x.shape[:lead].numel() if lead > 0 else 0
    if rows * per_row <= at_once(x.device):
        return answer(x)
    if torch.is_grad_enabled() and (
        x.requires_grad or any(p.requires_grad for p in layer.parameters())
    ):
        return answer(x)
    flat = x.reshape(-1, *x.shape[lead:])
    parts = [answer(part) for part in flat.split(max(1, at_once(x.device) // per_row))]
    joined = torch.cat(parts)
    return joined.reshape(*x.shape[:lead], *joined.shape[1:])


def at_once(device: torch.device) -> int:
    """Numbers that are worked on at once."""
    return AT_ONCE if device.type == "cpu" else MORE * AT_ONCE


def recorded() -> bool:
    """Whether operations are noted down to be run again with other rows."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return torch.compiler.is_compiling() or tracing

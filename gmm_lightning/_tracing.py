"""Whether the values of tensors can be looked at: not in graphs, fake tensors or under vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gmm_lightning.errors import InvalidArgumentError


def is_tracing() -> bool:
    """Whether operations are being traced, compiled or exported, to run again with other rows."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return torch.compiler.is_compiling() or tracing


def value_of(scalar: Tensor) -> Any:
    """The Python number in a tensor `()`, or None where values cannot be looked at.

    That is in graphs that are traced, compiled or exported, on the meta device, in fake tensors
    and under `torch.func.vmap`. There, values are not checked, and shapes are.

    Example:
        >>> mask = torch.tensor([True, False])
        >>> value_of(mask.all()), value_of(mask.all().to("meta"))
        (False, None)
    """
    if is_tracing():
        return None
    try:
        value = scalar.item()
    except RuntimeError:
        return None
    # A fake tensor may hold a symbol instead.
    return value if isinstance(value, bool | int | float) else None


def is_transformed(*tensors: Tensor | None) -> bool:
    """Whether `torch.func` transforms any of the tensors, or they carry forward derivatives.

    Example:
        >>> torch.func.vmap(lambda x: x if is_transformed(x) else -x)(torch.ones(2))
        tensor([1., 1.])
    """
    return any(
        torch.func.debug_unwrap(x) is not x or forward_ad.unpack_dual(x).tangent is not None
        for x in tensors
        if x is not None
    )


def values_are_readable(*tensors: Tensor) -> bool:
    """Whether a program may look at the values of tensors: see `value_of`.

    Example:
        >>> values_are_readable(torch.zeros(2)), values_are_readable(torch.zeros(2, device="meta"))
        (True, False)
    """
    # An empty sum takes no time, and is handed over where its terms would be.
    return all(value_of(t.detach().reshape(-1)[:0].sum()) is not None for t in tensors)


def require_readable(what: str, *tensors: Tensor) -> None:
    """Refuse what needs to look at the values of tensors where it cannot.

    A graph that is traced or compiled breaks at such a place, with a message of its own.

    Raises:
        InvalidArgumentError: the values are hidden; the message begins with `what`.
    """
    if not (is_tracing() or values_are_readable(*tensors)):
        raise InvalidArgumentError(
            f"{what} need values, which vmap and meta and fake tensors hide: make them outside, "
            "for a batch of mixtures"
        )

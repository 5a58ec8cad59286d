"""The linear map of a head: a module that is called, whatever stands there."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gmm_lightning.errors import InvalidArgumentError


def call_linear(linear: nn.Module, h: Tensor, num_outputs: int) -> Tensor:
    """Outputs `(*S, num_outputs)` of a module for features h `(*S, P)`.

    Parameters and buffers in half precision take part in the dtype of h.

    Raises:
        InvalidArgumentError: the module returns another number of outputs.
    """
    half = {
        name: value.to(h.dtype)
        for name, value in chain(linear.named_parameters(), linear.named_buffers())
        if value.dtype in (torch.bfloat16, torch.float16)
    }
    outputs = torch.func.functional_call(linear, half, (h,)) if half else linear(h)
    expected = (*h.shape[:-1], num_outputs)
    if outputs.shape != expected:
        raise InvalidArgumentError(
            f"the linear map of the head, a {type(linear).__name__}, must return {num_outputs} "
            f"numbers for each row, of shape {expected}, got shape {tuple(outputs.shape)}"
        )
    return outputs.to(h.dtype)


def require_writable(linear: nn.Module, method: str) -> nn.Linear:
    """The module itself, if it is an `nn.Linear` with a weight and a bias of its own.

    Raises:
        InvalidArgumentError: another module, or a weight that follows from other parameters.
    """
    own = dict(linear.named_parameters(recurse=False))
    plain = own.keys() == {"weight", "bias"} and not any(map(is_lazy, own.values()))
    if not isinstance(linear, nn.Linear) or not plain:
        kind = type(linear).__name__
        has = "" if not isinstance(linear, nn.Linear) else f" with parameters {', '.join(own)}"
        raise InvalidArgumentError(
            f"{method} writes the weight and the bias of the head's nn.Linear, and head.linear is "
            f"a {kind}{has}: call {method} before the map is replaced, wrapped or reparametrised"
        )
    return linear

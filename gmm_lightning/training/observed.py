"""A layer inside somebody's model, and the rows it is called with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gmm_lightning.em.rows import as_rows
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer

log = logging.getLogger(__name__)


class Observed:
    """A layer that tells its rows, and by default is out of an optimizer's reach.

    Args:
        layer: what is called as `layer(x)`.
        receive: takes the layer and its rows `(N, *B, D)`, detached, before every call.
        frozen: whether its parameters ask for no gradient, as EM wants: a DDP reducer would wait
            for gradients that never come.
    """

    def __init__(
        self, layer: GMMLayer, receive: Callable[[GMMLayer, Tensor], None], *, frozen: bool = True
    ) -> None:
        self.layer, self.receive = layer, receive
        self._frozen = [p for p in layer.parameters() if frozen and p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad = False
            # With one, be it zero, momentum and weight decay would move it.
            parameter.grad = None
        self._hook = layer.register_forward_pre_hook(self._called, with_kwargs=True)

    def _called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["x"]
        self.receive(self.layer, as_rows(self.layer, x.detach()))

    def release(self) -> None:
        """Leave the layer as it was found."""
        self._hook.remove()
        for parameter in self._frozen:
            parameter.requires_grad = True


def finite_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows `(N, ...)` without NaN or infinity, and how many were dropped.

    Example:
        >>> finite_rows(torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]))
        (tensor([[0., 1.]]), 1)
    """
    good = torch.isfinite(rows).flatten(1).all(-1)
    dropped = int((~good).sum())
    return (rows[good], dropped) if dropped else (rows, 0)


def tell_dropped(dropped: int, where: str) -> None:
    """Say how many rows were left out, if any were."""
    if dropped:
        log.warning("%s: %d rows have NaN or infinity and were left out", where, dropped)


def never_called(who: str) -> InvalidArgumentError:
    """What is said of a layer that no step calls."""
    return InvalidArgumentError(
        f"{who} saw no rows in a whole pass: the layer was not called. Call it as layer(x); "
        "layer.log_prob(x) runs no hooks"
    )

"""The rows that a layer inside a model is called with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import Batch, as_rows

_log = logging.getLogger(__name__)


class LayerObserver:
    """Receives the rows that a layer is called with, as `layer(x)` with rows or with a `Batch`.

    Args:
        layer: the layer.
        receive: takes each batch of rows `(N, *B, D)`, detached, before the call.
        frozen: whether its parameters require no gradient, for EM: a DDP reducer would wait for
            gradients that never come.
    """

    def __init__(
        self, layer: GMMLayer, receive: Callable[[Batch], None], *, frozen: bool = True
    ) -> None:
        self._layer, self._receive = layer, receive
        self._frozen = [p for p in layer.parameters() if frozen and p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad = False
            # With a gradient, even zero, momentum and weight decay would change it.
            parameter.grad = None
        self._hook = layer.register_forward_pre_hook(self._on_call, with_kwargs=True)

    @torch.compiler.disable(reason="the rows of the layer are read outside of the graph")
    def _on_call(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if layer is not self._layer:
            return
        x = args[0] if args else kwargs["x"]
        batch = (x if isinstance(x, Batch) else Batch(x)).map(lambda values: values.detach())
        rows = as_rows(batch.x, self._layer.num_features, self._layer.batch_shape)
        self._receive(batch._replace(x=rows))

    def __deepcopy__(self, memo: Any) -> LayerObserver:
        # The hook of a copied layer, such as a teacher's or an average's, is this one's: its calls
        # are none of the layer's.
        return self

    def release(self) -> None:
        """Remove the hook, and let the layer's parameters require gradients again."""
        self._hook.remove()
        for parameter in self._frozen:
            parameter.requires_grad = True


def warn_dropped(dropped: int, where: str) -> None:
    """Log the number of rows that were left out, if it is not 0."""
    if dropped:
        _log.warning("%s: %d rows have NaN or infinity and were left out", where, dropped)


def not_called_error(name: str) -> InvalidArgumentError:
    """The error for a layer that no step calls."""
    return InvalidArgumentError(
        f"{name} saw no rows in a whole pass: the layer was not called. Call it as layer(x); "
        "layer.log_prob(x) runs no hooks"
    )


def warn_unbounded(layer: GMMLayer) -> None:
    """Log the priors of a layer whose density has no mode for gradient descent to find."""
    for prior in layer.all_priors:
        if not prior.has_mode:
            values = ", ".join(f"{k}={v}" for k, v in prior.config().items() if v is not None)
            _log.warning(
                "the prior %r (%s) has no proper mode: its density grows without bound as weights "
                "vanish, and what gradient descent finds depends on where it stops; draw from the "
                "posterior instead (fit=nuts), or give larger concentrations",
                prior.name,
                values or "by default",
            )

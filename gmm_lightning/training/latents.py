"""The latents that a layer inside a model is called with, and a fit of the layer to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torchmetrics import Metric

from gmm_lightning.em import EMResult, fit_em
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import finite_rows
from gmm_lightning.training.observer import LayerObserver, not_called_error, warn_dropped
from gmm_lightning.training.target import target_layer


def collect_latents(
    module: L.LightningModule, loader: Iterable[Any], target: str, *, step: str = "training_step"
) -> Tensor:
    """The rows `(N, *B, D)` that a `GMMLayer` inside a model is called with for a whole loader.

    The module runs its own step, in evaluation mode and without gradients. Nothing is logged,
    and random states and modes are restored.

    Args:
        module: any LightningModule, attached to a trainer or not.
        loader: batches as the module's step takes them.
        target: dotted path of the layer, for instance `"model.density"`.
        step: name of the method that is called with `(batch, batch_idx)`, or with the batch alone
            if it takes one argument. It must call the layer as `layer(z)`.

    Raises:
        InvalidArgumentError: there is no layer at the target, no such method, one with manual
            optimization, or one that never calls the layer.
        InvalidDataError: the loader is empty.

    Example:
        >>> from gmm_lightning.training import collect_latents
        >>> class Model(L.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.density = torch.nn.Linear(5, 2), GMMLayer(2, 3)
        ...     def training_step(self, batch):
        ...         return -self.density(self.encoder(batch)).mean()
        >>> collect_latents(Model(), torch.randn(10, 4, 5), "density").shape
        torch.Size([40, 2])
    """
    layer = target_layer(module, target, "collect_latents")
    method = getattr(module, step, None)
    if not callable(method):
        raise InvalidArgumentError(f"{type(module).__name__} has no method {step!r}")
    if step == "training_step" and not module.automatic_optimization:
        raise InvalidArgumentError(
            f"the training_step of {type(module).__name__} optimises by hand: give step= the name "
            "of a method that only calls the layer"
        )
    parts: list[Tensor] = []
    num_batches, batch_only = 0, _accepts_batch_only(method)
    # Copies: some networks overwrite their latents in place.
    observer = LayerObserver(
        layer, lambda batch: parts.append(batch.x.to(layer.means, copy=True)), frozen=False
    )
    with _evaluation_context(module):
        try:
            for batch in loader:
                moved = _transfer_batch(module, batch)
                method(moved) if batch_only else method(moved, num_batches)
                num_batches += 1
        finally:
            observer.release()
    if num_batches == 0:
        raise InvalidDataError("the loader gave no batches; a generator gives them only once")
    if not parts:
        raise not_called_error(f"{type(module).__name__}.{step} with target={target!r}")
    return torch.cat([part.expand(len(part), *layer.batch_shape, -1) for part in parts])


def fit_latents(
    module: L.LightningModule,
    loader: Iterable[Any],
    target: str,
    *,
    step: str = "training_step",
    skip_nonfinite: bool = False,
    **options: Any,
) -> EMResult:
    """Fit a `GMMLayer` inside a model by EM, in place, to its `collect_latents` of a whole loader.

    The network is not changed. Before a fit this gives the start of joint training; after one it
    gives the mixture of the trained network's latents.

    Args:
        module: as for `collect_latents`, like `loader`, `target` and `step`.
        loader: batches as the module's step takes them.
        target: dotted path of the layer.
        step: name of the method that gets the batches.
        skip_nonfinite: leave rows with NaN or infinity out, and log their number.
        options: of `fit_em`: `initializer`, `tol`, `num_restarts`, `collapse`, ...

    Raises:
        InvalidDataError: latents that are not finite (by number), or too few.

    Example:
        >>> from gmm_lightning.training import fit_latents
        >>> class Model(L.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.density = GMMLayer(2, 3)
        ...     def training_step(self, batch):
        ...         return -self.density(batch.tanh()).mean()
        >>> fit_latents(Model(), torch.randn(10, 4, 2), "density", num_restarts=3).num_restarts
        3
    """
    rows = collect_latents(module, loader, target, step=step)
    if skip_nonfinite:
        rows, dropped = finite_rows(rows)
        warn_dropped(dropped, f"fit_latents(target={target!r})")
    return fit_em(target_layer(module, target, "fit_latents"), rows, **options)


def _accepts_batch_only(method: Callable[..., Any]) -> bool:
    """Whether a step takes the batch alone."""
    kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    unnamed = inspect.Parameter.VAR_POSITIONAL in kinds
    return not unnamed and sum(kind in named for kind in kinds) == 1


def _trainer_of(module: L.LightningModule) -> L.Trainer | None:
    """The trainer that a module is attached to."""
    try:
        return module.trainer
    except RuntimeError:
        return None


def _transfer_batch(module: L.LightningModule, batch: Any) -> Any:
    """A batch as a trainer passes it to a step: in its precision, on the module's device."""
    trainer = _trainer_of(module)
    if trainer is None:
        batch = module.on_before_batch_transfer(batch, 0)
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        return module.on_after_batch_transfer(batch, 0)
    batch = trainer.precision_plugin.convert_input(batch)
    datamodule: Any = getattr(trainer, "datamodule", None)
    source = datamodule if is_overridden("on_before_batch_transfer", datamodule) else module
    batch = source.on_before_batch_transfer(batch, 0)
    return trainer.strategy.batch_to_device(batch, module.device)


@contextmanager
def _evaluation_context(module: L.LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients and logs; random states, modes and metrics are restored."""
    modes = {part: part.training for part in module.modules()}
    metrics = [(part, _metric_state(part)) for part in modes if isinstance(part, Metric)]
    trainer, device = _trainer_of(module), module.device
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        # A graph in this mode would be of no use to the training.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        devices = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        if trainer is not None:
            stack.enter_context(trainer.precision_plugin.forward_context())
        # Outside of a trainer's loop the module's own methods would warn or raise.
        for name in ("log", "log_dict"):
            setattr(module, name, lambda *args, **kwargs: None)
            stack.callback(delattr, module, name)
        module.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            for metric, kept in metrics:
                vars(metric).update(kept)


def _metric_state(metric: Metric) -> dict[str, Any]:
    """The attributes of a metric, its states as copies: updates write into tensors and lists."""
    states = {
        name: list(state) if isinstance(state, list) else state.detach().clone()
        for name, state in metric.metric_state.items()
    }
    return vars(metric) | states

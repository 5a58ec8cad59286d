"""The layer that a callback trains, and checks that its fit can be exact."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import DensityHead, GMMLayer
from gmm_lightning.training.module import GMMModule

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def state_key_for(callback: L.Callback, target: str | None) -> str:
    """The key of a callback's state in a checkpoint: several may train parts of one model."""
    name = type(callback).__qualname__
    return name if target is None else f"{name}({target})"


def as_target(target: Any) -> str | None:
    """The dotted path of a layer, as the module or as its own code calls it: `self.density`.

    Raises:
        InvalidArgumentError: not a path, such as the layer itself.
    """
    if target is not None and not isinstance(target, str):
        raise InvalidArgumentError(
            'target must be the path of a layer in its module, such as "model.density", got a '
            f"{type(target).__name__}"
        )
    return None if target is None else target.removeprefix("self.")


def target_layer(pl_module: L.LightningModule, target: str | None, callback: str) -> GMMLayer:
    """The layer of a `GMMModule`, or the one at a dotted path in any other module."""
    target = as_target(target)
    if target is None and isinstance(pl_module, GMMModule):
        return pl_module.layer
    # A layer may have several names.
    modules = dict(pl_module.named_modules(remove_duplicate=False))
    found = {name: module for name, module in modules.items() if isinstance(module, GMMLayer)}
    if target in found:
        return found[target]
    there = modules.get(target or "")
    reason = ""
    if target and there is not None:
        reason = f", where a {type(there).__name__} stands"
        if isinstance(there, DensityHead):
            reason += (
                ": the mixture that a head gives changes with its features, so there are no "
                "parameters that EM could set; a head is trained by gradient, without this callback"
            )
    raise InvalidArgumentError(
        f"{callback}(target={target!r}) names no GMMLayer of {type(pl_module).__name__}{reason}; "
        f"found are: {', '.join(found) or 'none'}"
    )


def require_unsharded(trainer: L.Trainer) -> None:
    """Refuse a precision too low for sums, and a strategy that shards parameters."""
    if trainer.precision not in _PRECISIONS:
        raise InvalidArgumentError(
            f"EM needs trainer.precision to be one of {', '.join(_PRECISIONS)}, got "
            f"{trainer.precision}: sums and factorisations do not survive half precision"
        )
    strategy = type(trainer.strategy).__name__
    if any(word in strategy for word in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise InvalidArgumentError(
            f"EM needs whole parameters on every process, and {strategy} shards them: use "
            "trainer.strategy=ddp"
        )


def require_exact_shards(trainer: L.Trainer) -> None:
    """Refuse a loader whose shards repeat rows."""
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    samplers = [
        sampler
        for loader in loaders
        if isinstance(loader, DataLoader)
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    ]
    for sampler in samplers:
        if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
            continue
        # Shards of equal length need some rows twice.
        if sampler.total_size > len(sampler.dataset):  # pyright: ignore[reportArgumentType]
            raise InvalidArgumentError(
                "this DataLoader was given a distributed sampler, which repeats rows to make "
                "shards equal, so EM would not be exact: use ArrayDataModule, which shards "
                "exactly, or DistributedSampler(dataset, drop_last=True) with "
                "Trainer(use_distributed_sampler=False)"
            )

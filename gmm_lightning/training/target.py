"""Which layer a callback trains, and whether this fit can be exact."""

from __future__ import annotations

import lightning as L
from torch.utils.data import DataLoader, DistributedSampler

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.training.module import GMMModule

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def target_layer(pl_module: L.LightningModule, target: str | None, callback: str) -> GMMLayer:
    """The layer of a `GMMModule`, or the one at a dotted path in any other module.

    Raises:
        InvalidArgumentError: there is none at the target; the message lists those found.
    """
    if target is None and isinstance(pl_module, GMMModule):
        return pl_module.layer
    found = {name: m for name, m in pl_module.named_modules() if isinstance(m, GMMLayer)}
    if target not in found:
        raise InvalidArgumentError(
            f"{callback}(target={target!r}) names no GMMLayer of "
            f"{type(pl_module).__name__}; found are: {', '.join(found) or 'none'}"
        )
    return found[target]


def require_whole(trainer: L.Trainer) -> None:
    """Refuse a precision that sums do not survive, and a strategy that shards parameters.

    Raises:
        InvalidArgumentError: naming what to choose instead.
    """
    if trainer.precision not in PRECISIONS:
        raise InvalidArgumentError(
            f"EM needs trainer.precision to be one of {', '.join(PRECISIONS)}, got "
            f"{trainer.precision}: sums and factorisations do not survive half precision"
        )
    strategy = type(trainer.strategy).__name__
    if any(word in strategy for word in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise InvalidArgumentError(
            f"EM needs whole parameters on every process, and {strategy} shards them: use "
            "trainer.strategy=ddp"
        )


def require_exact_shards(trainer: L.Trainer) -> None:
    """Refuse a loader whose shards repeat rows.

    Raises:
        InvalidArgumentError: naming the loader that does not.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader):
        return
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
        raise InvalidArgumentError(
            "this DataLoader was given a distributed sampler, which repeats rows to make "
            "shards equal, so EM would not be exact: use ArrayDataModule, which shards exactly"
        )

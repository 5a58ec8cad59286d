"""Checkpoints at the end of a pass, and only there."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from gmm_lightning._files import atomic_write
from gmm_lightning._validation import require_integer


def is_dry(trainer: L.Trainer) -> bool:
    """Whether this is a `fast_dev_run`, which writes nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))


class EpochCheckpoint(Checkpoint):
    """Writes `last.ckpt` after the first pass, every few passes, and at the end of a fit.

    A checkpoint inside a pass would resume with incomplete statistics, so none is written there.
    If writing is interrupted, the last complete checkpoint stays.

    Args:
        dirpath: folder of the file.
        every_n_passes: how often; the last pass is always written.
    """

    def __init__(self, dirpath: str | Path, every_n_passes: int = 10) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_passes = require_integer("every_n_passes", every_n_passes, least=1)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the folder, which marks that training has started."""
        if trainer.is_global_zero and not is_dry(trainer):
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write when due. Lightning calls checkpoint callbacks after early stopping."""
        if is_dry(trainer):
            return
        passes = trainer.current_epoch + 1
        last = (
            trainer.should_stop
            or passes == trainer.max_epochs
            or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps)
        )
        if last or passes == 1 or passes % self.every_n_passes == 0:
            self.write(trainer)

    def write(self, trainer: L.Trainer) -> None:
        """Write the state of the fit, atomically."""
        # All processes take part; the first one writes.
        first = trainer.is_global_zero
        with atomic_write(self.path) if first else nullcontext(self.path) as partial:
            trainer.save_checkpoint(partial, weights_only=False)
        trainer.strategy.barrier("EpochCheckpoint")

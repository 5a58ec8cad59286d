"""One bar for a whole fit: passes done, and the latest log-likelihood."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

_SHOWN = {
    "train/log_likelihood": "log_likelihood",
    "train/objective": "objective",
    "val/log_likelihood": "val",
}


class EpochProgress(ProgressBar):
    """A bar over the passes of a fit, instead of one over the batches of each pass.

    An EM pass is often a single batch. Within a long pass the batches are counted too.

    Args:
        min_interval: seconds between redraws.
    """

    def __init__(self, min_interval: float = 0.1) -> None:
        super().__init__()
        self.min_interval = min_interval
        self._enabled = True
        self._bar: Any = None

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar where the fit starts or resumes."""
        self._bar = tqdm(
            total=trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None,
            initial=trainer.current_epoch,
            desc="passes",
            unit="pass",
            mininterval=self.min_interval,
            dynamic_ncols=True,
            disable=not self._enabled,
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Count batches within a long pass."""
        if self.total_train_batches > 1 and self._bar is not None:
            batch = f"batch {trainer.fit_loop.batch_idx + 1}/{self.total_train_batches}"
            self._bar.set_description(f"passes, {batch}", refresh=False)
            self._bar.update(0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count one pass, with the numbers of the last completed one."""
        if self._bar is None:
            return
        metrics = trainer.callback_metrics
        numbers = {
            label: f"{float(metrics[key]):.5f}" for key, label in _SHOWN.items() if key in metrics
        }
        self._bar.set_postfix(numbers, refresh=False)
        self._bar.update(1)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar, which stays visible."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar also after an error."""
        self.on_train_end()

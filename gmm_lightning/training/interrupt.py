"""Ctrl-C and SIGTERM: finish the pass, write the checkpoint, stop."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop(Checkpoint):
    """Ends a fit after the pass in which a signal arrived; a second Ctrl-C ends it at once.

    A pass that is cut short could not be resumed exactly. All processes stop after the same pass,
    whichever of them got the signal. Put it before `EpochCheckpoint`, which writes when it sees
    the stop.

    Attributes:
        signum: the signal that ended the fit, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._former: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handlers instead of those that Lightning has installed by now."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in _SIGNALS:
            self._former[signum] = signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        _log.warning("%s: stopping after this pass", signal.Signals(signum).name)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop all processes if one of them got a signal."""
        mine = self.signum is not None
        if trainer.strategy.reduce_boolean_decision(mine, all=False):
            trainer.should_stop = True
            self.signum = self.signum or signal.SIGTERM

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the former handlers."""
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._former = {}

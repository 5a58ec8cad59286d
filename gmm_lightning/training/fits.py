"""What kind of fit a trainer does."""

from __future__ import annotations

import lightning as L

from gmm_lightning.training.base import RowsDataModule


def starts_anew(trainer: L.Trainer) -> bool:
    """Whether a fit goes on neither from a checkpoint nor where its trainer stopped before."""
    return trainer.ckpt_path is None and trainer.current_epoch == 0


def missing_of(trainer: L.Trainer, *given: str | None) -> str | None:
    """What a fit does with missing entries: `em` if one of its parts or its data module says so."""
    data_module = getattr(trainer, "datamodule", None)
    return "em" if "em" in (*given, getattr(data_module, "missing", None)) else None


def has_validation(trainer: L.Trainer) -> bool:
    """Whether a fit has a validation set."""
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, RowsDataModule) and data.part("val") is None:
        return False
    return trainer.enable_validation

"""Training with Lightning: the module, its callbacks and its data."""

from __future__ import annotations

from gmm_lightning.training.checkpoint import PassCheckpoint
from gmm_lightning.training.codes import codes, fit_codes
from gmm_lightning.training.data import ArrayDataModule
from gmm_lightning.training.em import EMCallback
from gmm_lightning.training.floor import FloorCallback
from gmm_lightning.training.initialize import InitializeCallback
from gmm_lightning.training.interrupt import GracefulStop
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.progress import PassProgress
from gmm_lightning.training.stepwise import StepwiseEMCallback
from gmm_lightning.training.stream import StreamDataModule
from gmm_lightning.training.tensorboard import MixtureLogger

__all__ = [
    "ArrayDataModule",
    "EMCallback",
    "FloorCallback",
    "GMMModule",
    "GracefulStop",
    "InitializeCallback",
    "MixtureLogger",
    "PassCheckpoint",
    "PassProgress",
    "StepwiseEMCallback",
    "StreamDataModule",
    "codes",
    "fit_codes",
]

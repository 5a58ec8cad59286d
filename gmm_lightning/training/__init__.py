"""Training with Lightning: the module, its callbacks and its data."""

from __future__ import annotations

from gmm_lightning.training.base import RowsDataModule, missing_word
from gmm_lightning.training.checkpoint import EpochCheckpoint, is_dry
from gmm_lightning.training.checkpoint_io import (
    check_progress,
    going_on,
    read_checkpoint,
    read_state,
)
from gmm_lightning.training.data import ArrayDataModule
from gmm_lightning.training.em import EMCallback
from gmm_lightning.training.em_base import BaseEMCallback
from gmm_lightning.training.error_columns import ErrorColumns
from gmm_lightning.training.evaluation import Prediction
from gmm_lightning.training.floor import CovarianceFloorCallback
from gmm_lightning.training.initialize import InitializeCallback
from gmm_lightning.training.interrupt import GracefulStop
from gmm_lightning.training.latents import collect_latents, fit_latents
from gmm_lightning.training.loader import RowLoader
from gmm_lightning.training.logger import MixtureLogger
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.pictures import draw_mixture, draw_prior
from gmm_lightning.training.posterior import PosteriorCallback
from gmm_lightning.training.progress import EpochProgress
from gmm_lightning.training.stepwise import StepwiseEMCallback
from gmm_lightning.training.stored_start import StoredStart
from gmm_lightning.training.stream import StreamDataModule
from gmm_lightning.training.variational import VBCallback

__all__ = [
    "ArrayDataModule",
    "BaseEMCallback",
    "CovarianceFloorCallback",
    "EMCallback",
    "EpochCheckpoint",
    "EpochProgress",
    "ErrorColumns",
    "GMMModule",
    "GracefulStop",
    "InitializeCallback",
    "MixtureLogger",
    "PosteriorCallback",
    "Prediction",
    "RowLoader",
    "RowsDataModule",
    "StepwiseEMCallback",
    "StoredStart",
    "StreamDataModule",
    "VBCallback",
    "check_progress",
    "collect_latents",
    "draw_mixture",
    "draw_prior",
    "fit_latents",
    "going_on",
    "is_dry",
    "missing_word",
    "read_checkpoint",
    "read_state",
]

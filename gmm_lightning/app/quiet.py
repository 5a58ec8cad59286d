"""A fit with Lightning inside an example, which has its own way of telling how it goes."""

from __future__ import annotations

import logging
import warnings

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset


def train_quietly(
    module: L.LightningModule,
    rows: Tensor,
    epochs: int,
    *callbacks: L.Callback,
    batch_size: int | None = None,
    logger: Logger | None = None,
    seed: int = 0,
) -> None:
    """Train on the processor, with nothing printed, and random states left alone.

    Args:
        module: what is trained.
        rows: `(N, D)`; a batch is a tuple of some of them.
        epochs: passes.
        callbacks: of the trainer.
        batch_size: None: all rows at once, one step a pass.
        logger: of what the module logs.
        seed: of the order of the rows and of what the module draws.
    """
    told = logging.getLogger("lightning.pytorch")
    level = told.level
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # About workers, logs and GPUs that are left idle: true, and no news for so small a fit.
        warnings.simplefilter("ignore")
        told.setLevel(logging.ERROR)
        try:
            torch.manual_seed(seed)
            trainer = L.Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=epochs,
                callbacks=list(callbacks),
                logger=logger or False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module, dealt(rows, batch_size or len(rows)))
        finally:
            told.setLevel(level)


def dealt(rows: Tensor, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    """Rows in random order, cut into batches at once rather than one by one."""
    order = BatchSampler(RandomSampler(range(len(rows))), batch_size, drop_last=False)
    return DataLoader(TensorDataset(rows), batch_size=None, sampler=order)

"""Training with Lightning without any output, for examples that print tables of their results."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset


def train_silently(
    module: L.LightningModule,
    rows: Tensor,
    epochs: int,
    *callbacks: L.Callback,
    batch_size: int | None = None,
    logger: Logger | None = None,
    seed: int = 0,
) -> None:
    """Train a module on the CPU; the global random state is the same afterwards.

    Args:
        module: the module to train.
        rows: data `(N, D)`; a batch is the tuple `(rows[indices],)`.
        epochs: number of epochs.
        callbacks: callbacks of the trainer.
        batch_size: rows per batch; None for all rows in one batch.
        logger: receives what the module logs.
        seed: seed of the shuffling and of random numbers that the module draws.
    """
    with torch.random.fork_rng(devices=[]), no_messages():
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
        trainer.fit(module, shuffled_loader(rows, batch_size or len(rows)))


def shuffled_loader(rows: Tensor, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    """Batches in random order, each indexed at once instead of collated row by row."""
    sampler = BatchSampler(RandomSampler(range(len(rows))), batch_size, drop_last=False)
    return DataLoader(TensorDataset(rows), batch_size=None, sampler=sampler)


@contextmanager
def no_messages() -> Iterator[None]:
    """Hide Lightning's advice on data loader workers, logging and unused GPUs."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)

"""A start for a fit: priors and parameters from the whole training set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.em import fit_em
from gmm_lightning.em.source import Source
from gmm_lightning.em.start import initialize, resolve_from
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training.loader import as_batch
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.parts import Portion


class TrainingRows:
    """The whole training set of a data module in standard units, block by block."""

    def __init__(self, module: GMMModule, datamodule: Any) -> None:
        self.module, self.datamodule = module, datamodule

    def __iter__(self) -> Iterator[Tensor | Portion]:
        for portion in self._portions():
            z = self.module.standardize(portion.x.to(self.module.layer.means.device))
            yield z if portion.weight is None else Portion(z, portion.weight.to(z.device))

    def _portions(self) -> Iterator[Portion]:
        if hasattr(self.datamodule, "train_blocks"):
            yield from self.datamodule.train_blocks()
            return
        for batch in self.datamodule.train_dataloader():
            rows = as_batch(batch, 1)
            yield Portion(rows.x, rows.weight)


class InitializeCallback(L.Callback):
    """Sets units, priors and parameters before the first batch of a fit.

    It reads the whole training set, not a process's shard, in `setup`: so the start does not
    depend on the number of processes, and DDP hands out the parameters of the first one. A
    resumed fit is left alone.

    Args:
        initializer: a name, an instance, labels or responsibilities, or None to keep the
            layer's parameters and only resolve units and priors.
        seed: of the initializer's draws.
        num_restarts: starts tried; each is followed for a few EM passes, and the one with the
            best objective is kept (Biernacki, Celeux, Govaert 2003).
        trial_passes: EM passes of each start when there are several.

    Raises:
        InvalidArgumentError: the module is not a `GMMModule`, or there is no data module.
        InvalidDataError: the data cannot be used.
    """

    def __init__(
        self,
        initializer: Any = "kmeans",
        seed: int = 0,
        num_restarts: int = 1,
        trial_passes: int = 10,
    ) -> None:
        if num_restarts < 1 or trial_passes < 0:
            raise InvalidArgumentError(
                "InitializeCallback needs num_restarts >= 1 and trial_passes >= 0, got "
                f"{num_restarts} and {trial_passes}"
            )
        self.initializer, self.seed = initializer, seed
        self.num_restarts, self.trial_passes = num_restarts, trial_passes

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Initialise, once per fit."""
        if stage != "fit" or trainer.ckpt_path is not None:
            return
        if not isinstance(pl_module, GMMModule):
            raise InvalidArgumentError(
                f"InitializeCallback starts a GMMModule, got {type(pl_module).__name__}; for a "
                "layer inside a network, fit it on codes with fit_em before training"
            )
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is None:
            raise InvalidArgumentError(
                "InitializeCallback needs the whole training set: pass a data module to "
                "trainer.fit, for instance ArrayDataModule(x)"
            )
        # The parameters are to be drawn in the precision they will have.
        trainer.precision_plugin.convert_module(pl_module)
        pl_module.take_units(datamodule)
        layer, rows = pl_module.layer, TrainingRows(pl_module, datamodule)
        generator = torch.Generator().manual_seed(self.seed)
        if self.num_restarts > 1:
            fit_em(
                layer,
                rows,
                initializer=self.initializer,
                max_iter=self.trial_passes,
                tol=0.0,
                num_restarts=self.num_restarts,
                generator=generator,
            )
            return
        source = Source(layer, rows)
        resolve_from(layer, source)
        if self.initializer is not None:
            initialize(layer, source, self.initializer, generator)

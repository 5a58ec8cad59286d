"""Initialisation of a fit: priors and parameters from the whole training set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torchmetrics.utilities.distributed import gather_all_tensors

from gmm_lightning._validation import require_integer
from gmm_lightning.em import fit_em, initialize_layer, resolve_priors
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import Batch, MappedRows, finite_rows, require_missing
from gmm_lightning.training.base import RowsDataModule
from gmm_lightning.training.batches import as_global_batch, require_one_loader
from gmm_lightning.training.fits import missing_of, starts_anew
from gmm_lightning.training.latents import collect_latents
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.observer import warn_dropped
from gmm_lightning.training.stored_start import StoredStart
from gmm_lightning.training.target import as_target, target_layer


class InitializeCallback(L.Callback):
    """Sets units, priors and parameters before the first batch of a fit.

    The whole training set is read in `setup`, not a process's shard: the start does not depend on
    the number of processes. A resumed fit is not changed, nor is one that goes on in the same
    trainer. A layer inside a model is initialised
    from the latents of the untrained network (`collect_latents`) when training starts.

    Args:
        initializer: a name, an instance, labels or responsibilities, a `StoredStart` to begin with
            the parameters of a finished fit, or None to keep the layer's parameters and only
            resolve units and priors.
        seed: of the initializer's draws.
        num_restarts: starts tried; each is followed for a few EM passes, and the one with the
            best objective is kept (Biernacki, Celeux, Govaert 2003).
        trial_passes: EM passes of each start when there are several.
        target: None for a `GMMModule`; else the dotted path of a `GMMLayer`, as for `EMCallback`.
        step: with a target: the method that gets the batches, as for `collect_latents`.
        skip_nonfinite: with a target: leave out latents with NaN or infinity, and log their number.
        missing: `em`: rows may have missing entries, as in `initialize_layer`; a data module or a
            `GMMModule` with `missing="em"` says so, too. None refuses them.

    Raises:
        InvalidArgumentError: there is no layer at the target, it is never called, or a
            `GMMModule` has no data module in a fit of several processes.
        InvalidDataError: the data cannot be used.
    """

    def __init__(
        self,
        initializer: Any = "mixed",
        seed: int = 0,
        num_restarts: int = 1,
        trial_passes: int = 10,
        *,
        target: str | None = None,
        step: str = "training_step",
        skip_nonfinite: bool = False,
        missing: str | None = None,
    ) -> None:
        self.initializer, self.seed = initializer, require_integer("seed", seed, least=0)
        self.num_restarts = require_integer("num_restarts", num_restarts, least=1)
        self.trial_passes = require_integer("trial_passes", trial_passes, least=0)
        self.target, self.step, self.skip_nonfinite = as_target(target), step, skip_nonfinite
        self.missing = require_missing(missing)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Initialise, once per fit."""
        if stage != "fit" or not starts_anew(trainer):
            return
        if self.target is not None:
            target_layer(pl_module, self.target, type(self).__name__)
            return
        if not isinstance(pl_module, GMMModule):
            raise InvalidArgumentError(
                f"InitializeCallback starts a GMMModule, got {type(pl_module).__name__}; for a "
                'layer inside a network give its path, for instance target="model.density"'
            )
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is None and trainer.world_size > 1:
            raise InvalidArgumentError(
                "with several processes InitializeCallback needs the whole training set: pass a "
                "data module to trainer.fit, for instance ArrayDataModule(x)"
            )
        if datamodule is None:
            # Lightning makes the loader later.
            return
        # The parameters are drawn in the precision of the fit.
        trainer.precision_plugin.convert_module(pl_module)
        self._load(pl_module.layer, pl_module)
        pl_module.take_units(datamodule)
        missing = missing_of(trainer, self.missing, pl_module.missing)
        self._start(pl_module.layer, training_rows(pl_module, datamodule), missing)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Initialise a layer inside a model, whose network is on its device by now.

        Or a `GMMModule` that is fitted to a loader, which there is by now.
        """
        if not starts_anew(trainer):
            return
        if self.target is None:
            if getattr(trainer, "datamodule", None) is None:
                assert isinstance(pl_module, GMMModule)
                self._load(pl_module.layer, pl_module)
                rows = _LoaderRows(pl_module, lambda: trainer.train_dataloader)
                self._start(pl_module.layer, rows, self.missing or pl_module.missing)
            return
        layer = target_layer(pl_module, self.target, type(self).__name__)
        rows = collect_latents(pl_module, _training_batches(trainer), self.target, step=self.step)
        if trainer.world_size > 1:
            rows = torch.cat(gather_all_tensors(rows))
        if self.skip_nonfinite:
            rows, dropped = finite_rows(rows)
            if trainer.is_global_zero:
                warn_dropped(dropped, f"InitializeCallback(target={self.target!r})")
        self._load(layer)
        self._start(layer, rows, self.missing)
        layer.load_state_dict(trainer.strategy.broadcast(layer.state_dict()))

    def _load(self, layer: GMMLayer, module: GMMModule | None = None) -> None:
        """Read the parameters of a finished fit, if it starts from one."""
        if isinstance(self.initializer, StoredStart):
            self.initializer.write_to(layer, module)

    def _start(self, layer: GMMLayer, rows: Any, missing: str | None) -> None:
        """Set priors and parameters of a layer from all rows."""
        generator = torch.Generator().manual_seed(self.seed)
        initializer = None if isinstance(self.initializer, StoredStart) else self.initializer
        if self.num_restarts > 1:
            how = {"max_iter": self.trial_passes, "num_restarts": self.num_restarts, "tol": 0.0}
            how |= {"initializer": initializer, "generator": generator, "missing": missing}
            # A fit by EM refuses them by itself.
            how |= {"conjugate_only": True}
            fit_em(layer, rows, **how)
        elif initializer is None:
            resolve_priors(layer, rows, missing=missing)
        else:
            how = {"generator": generator, "missing": missing}
            initialize_layer(layer, rows, initializer, **how)


def training_rows(module: GMMModule, datamodule: Any) -> Any:
    """The whole training set of a data module in standard units."""
    device = module.layer.means.device
    if isinstance(datamodule, RowsDataModule):
        rows = datamodule.train_source(labels=module.layer.evidence is not None)
        return MappedRows(rows, lambda batch: _standard(module, batch, device))
    return _LoaderRows(module, datamodule.train_dataloader)


class _LoaderRows:
    """The batches of any loader in standard units, re-iterable."""

    def __init__(self, module: GMMModule, make_loader: Callable[[], Any]) -> None:
        self.module, self.make_loader = module, make_loader

    def __iter__(self) -> Iterator[Batch]:
        device, loader = self.module.layer.means.device, self.make_loader()
        require_one_loader(loader, "InitializeCallback")
        for item in loader:
            yield _standard(self.module, as_global_batch(item, 1), device)


def _standard(module: GMMModule, batch: Batch, device: torch.device) -> Batch:
    """A batch in standard units, on the device of the mixture."""
    return module.standardize.batch(batch._replace(x=batch.x.to(device)))


def _training_batches(trainer: L.Trainer) -> Iterator[Any]:
    """This process's batches of one pass, in order if the data module supports it."""
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, RowsDataModule):
        return iter(datamodule.predict_dataloader())
    loader: Any = trainer.train_dataloader
    if isinstance(loader, dict | list | tuple):
        # Batches as the step takes them, though a loader may be read on where the fit stops.
        loader = (batch for batch, *_ in CombinedLoader(loader, "max_size_cycle"))
    count = trainer.num_training_batches
    return islice(loader, None if count == float("inf") else int(count))

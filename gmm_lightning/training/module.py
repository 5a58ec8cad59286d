"""The layer as a LightningModule, for EM or for gradient descent."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from gmm_lightning._validation import require_function
from gmm_lightning.em import Responsibilities, softmax_responsibilities_
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.layers import GMMLayer, require_state
from gmm_lightning.rows import Batch, check_finite
from gmm_lightning.statistics import SufficientStatistics
from gmm_lightning.training.archive import require_intact
from gmm_lightning.training.batches import as_global_batch, require_one_loader
from gmm_lightning.training.checkpoint_io import (
    check_checkpoint,
    check_progress,
    describe_data,
    layer_from_checkpoint,
    read_checkpoint,
    read_data,
    read_state,
)
from gmm_lightning.training.constrained import ConstrainedSteps
from gmm_lightning.training.evaluation import EvaluatedMixture
from gmm_lightning.training.fits import missing_of, starts_anew
from gmm_lightning.training.loader import step_weight, total_train_weight
from gmm_lightning.training.observer import warn_unbounded
from gmm_lightning.training.schedulers import SchedulerFactory, falling, make_part, scheduler_config

_log = logging.getLogger(__name__)

_OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class GMMModule(ConstrainedSteps, EvaluatedMixture):
    """A mixture that Lightning trains: by EM without an optimizer, by gradient descent with one.

    Both optimise `layer.objective` on the whole training set, in nats per row. What is logged
    is in the user's units, also when the data are standardised. `trainer.validate` and
    `trainer.test` give `val/log_likelihood` and `test/log_likelihood`, means of `log p(x)` over all
    rows by their weights, and `trainer.predict` a `Prediction` of each batch. Labels count in
    training alone, where `train/log_likelihood` is of rows with their labels. In several processes
    the sampler that Lightning gives a `DataLoader` repeats rows, and these count again; our data
    modules shard exactly.

    A batch is rows `(N, D)`, a `Batch`, a tuple or list that begins with rows, or a mapping with
    the rows as `x` (and `weight`, `labels`).

    Args:
        layer: the mixture.
        optimizer: None for EM (with `EMCallback`), or a factory that takes the parameters, such
            as `functools.partial(torch.optim.Adam, lr=0.01)`.
        scheduler: a factory that takes the optimizer, such as `ReduceLROnPlateau`; it may return
            Lightning's dictionary of a scheduler. `OneCycleLR` and `CyclicLR` go on with each
            step of the optimizer, all others with each pass.
        monitor: what a `ReduceLROnPlateau` watches: None: `val/log_likelihood` if there is a
            validation set, else `train/objective`. In its mode `min` it gets their negatives.
        missing: None refuses rows with missing entries, `em` uses the entries that are there, as
            `fit_em` does; a data module or callback with `missing="em"` sets it.

    Attributes:
        standardize: the change of units before the layer; the identity unless the data module
            standardises. It is part of the checkpoint.
        phase: which of several consecutive fits of one run this is; `passes_before` counts the
            passes of the earlier ones.
        data: name, columns and classes of the data it was trained on.

    Example:
        >>> from gmm_lightning.training import GMMModule
        >>> module = GMMModule(GMMLayer(2, 3))
        >>> module.log_prob(torch.zeros(4, 2)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        layer: GMMLayer,
        optimizer: _OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        monitor: str | None = None,
        missing: str | None = None,
    ) -> None:
        super().__init__(layer, missing)
        for name, factory in (("optimizer", optimizer), ("scheduler", scheduler)):
            if factory is not None:
                require_function(f"{name} (a factory, such as functools.partial(...))", factory)
        self.optimizer, self.scheduler, self.monitor = optimizer, scheduler, monitor
        self.data: dict[str, Any] = {}
        self.phase = 0
        self._is_learning = False

    # -- training ---------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The factory's optimizer, or None for EM.

        Raises:
            InvalidArgumentError: a factory refuses its settings.
        """
        if self.optimizer is None:
            # Lightning warns of a fit without optimizer, which is meant here.
            warnings.filterwarnings("ignore", message=".*fit will run with no optimizer.*")
            return None
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = make_part("optimizer", self.optimizer, parameters)
        if self.scheduler is None:
            return optimizer
        describe = partial(scheduler_config, self.scheduler, self.trainer, self.monitor)
        return {"optimizer": optimizer, "lr_scheduler": make_part("scheduler", describe, optimizer)}

    @property
    def lr(self) -> float | None:
        """The learning rate of an optimizer factory made by `functools.partial`; else None.

        Lightning's `Tuner(trainer).lr_find(module, data)` sets it.
        """
        return getattr(self.optimizer, "keywords", {}).get("lr")

    @lr.setter
    def lr(self, value: float) -> None:
        factory: Any = self.optimizer
        if factory is not None:
            self.optimizer = partial(factory, lr=value)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip gradients as the trainer says; EM has none."""
        if self.optimizer is not None:
            super().configure_gradient_clipping(*args, **kwargs)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a scheduler; one that waits for a minimum gets the negative of what rises."""
        configs = self.trainer.lr_scheduler_configs
        monitor = next(c.monitor for c in configs if c.scheduler is scheduler)
        super().lr_scheduler_step(scheduler, falling(monitor, scheduler, metric))

    def on_train_start(self) -> None:
        """Refuse several loaders side by side, and constraints without values."""
        super().on_train_start()
        self._is_learning = self.optimizer is not None
        if self._is_learning and self.trainer.is_global_zero:
            warn_unbounded(self.layer)
        require_one_loader(self.trainer.train_dataloader, type(self).__name__)

    def on_train_end(self) -> None:
        """Warn of a fit in which nothing learnt."""
        if not self._is_learning and self.trainer.is_global_zero:
            _log.warning(
                "%s learnt nothing: it has no optimizer, and no EM callback read its batches; add "
                "EMCallback() to the callbacks of the trainer, or give it optimizer=",
                type(self).__name__,
            )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass; nothing under EM, whose loss has no graph."""
        if self.optimizer is not None:
            super().backward(loss, *args, **kwargs)

    def e_step(
        self, batch: Batch, responsibilities: Responsibilities = softmax_responsibilities_
    ) -> SufficientStatistics:
        """Expected statistics of rows in the user's units, which `EMCallback` adds up."""
        self._is_learning = True
        return super().e_step(batch, responsibilities)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch; 0 under EM, where the callback reads the batch."""
        if self.optimizer is None:
            return self.layer.means.new_zeros(())
        batch = as_global_batch(batch, self.trainer.world_size)
        log_prob = self.log_prob_of(self._seen(batch))
        weighted = log_prob if batch.weight is None else batch.weight.to(log_prob) * log_prob
        nll = -weighted.sum() * self.trainer.world_size / step_weight(batch, self.trainer)
        loss = nll - self._prior_per_row()
        if not bool(torch.isfinite(loss)):
            check_finite(batch.x, missing=self.missing)
            raise InvalidDataError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}, batch {batch_idx}: "
                "standardise the data, lower the learning rate, or clip gradients"
            )
        self._add_moments("train/log_likelihood", log_prob.detach(), batch.weight, batch_idx)
        shown = nll.detach() - self.standardize.log_abs_det
        self.log("train/nll", shown, on_step=True, on_epoch=False, batch_size=1)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the mean over a gradient epoch, each batch under the parameters of its step."""
        for name, mean in self._mean_log_probs("train").items():
            objective = mean + self._prior_per_row().detach()
            self.log_pass({name: mean, "train/objective": objective}, prog_bar=True)

    def _prior_per_row(self) -> Tensor:
        """Log-prior divided by `num_samples`, summed over a batch of mixtures; 0 without priors."""
        if not len(self.layer.priors) and self.layer.noise is None:
            return self.layer.means.new_zeros(())
        return self.layer.log_prior().sum() / self.num_samples

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features of the data it was trained on; empty where they are not known."""
        return tuple(self.data.get("columns") or ())

    @property
    def num_samples(self) -> float:
        """Divisor of the log-prior: rows of the training set, or their total weight."""
        return total_train_weight(self.trainer)

    def setup(self, stage: str) -> None:
        """Read rows as the data module does, and set its units where no callback has."""
        self.missing = missing_of(self.trainer, self.missing)
        if stage == "fit" and starts_anew(self.trainer):
            self.take_units(getattr(self.trainer, "datamodule", None))

    # -- checkpoints ------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the layer by names and numbers, to be rebuilt from the file alone."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self.data = describe_data(datamodule, self.layer.num_features)
        checkpoint["gmm_lightning"] = {
            "layer": self.layer.to_config(),
            "data": self.data,
            "phase": self.phase,
            "passes_before": self.passes_before,
            "missing": self.missing,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Verify the file of a fit that goes on, and restore the phase that it was written in.

        Lightning has read it by then: without code by `trainer.fit(..., weights_only=True)`.

        Raises:
            CheckpointError: a file that is damaged, or was not written by a fit of such a module.
        """
        path = self.trainer.ckpt_path
        if path is not None and Path(path).is_file():
            require_intact(Path(path))
            check_checkpoint(checkpoint, path)
            if self.trainer.state.fn == "fit":
                check_progress(checkpoint, path)
            require_state(self, checkpoint["state_dict"], path)
        stored = checkpoint.get("gmm_lightning", {})
        self.phase = stored.get("phase", 0)
        self.passes_before = stored.get("passes_before", 0)
        self.missing = self.missing or stored.get("missing")

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        *,
        layer: GMMLayer | None = None,
    ) -> GMMModule:
        """The trained module, in evaluation mode; no code in the file is executed.

        Args:
            checkpoint_path: a file written by a fit.
            map_location: as in `torch.load`.
            layer: for families, priors or extensions that are not registered: a layer of the
                same shape to load into.

        Raises:
            CheckpointError: no such file, or one that is truncated, damaged, foreign, or holds
                code.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        module = cls(layer if layer is not None else layer_from_checkpoint(checkpoint))
        module.missing = checkpoint["gmm_lightning"].get("missing")
        read_state(module, checkpoint, checkpoint_path)
        module.data = read_data(checkpoint, module.layer.num_features, checkpoint_path)
        return module.eval()

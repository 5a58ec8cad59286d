"""The layer as a LightningModule, for EM or for gradient descent."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from gmm_lightning.em import Responsibilities, e_step, softmax_responsibilities_
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import Batch, check_finite
from gmm_lightning.statistics import SufficientStatistics, WeightedMoments
from gmm_lightning.training.checkpoint_io import (
    data_from_checkpoint,
    describe_data,
    layer_from_checkpoint,
    read_checkpoint,
    read_state,
)
from gmm_lightning.training.loader import as_global_batch
from gmm_lightning.training.units import StandardizedMixture, is_identity

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], Any]


class GMMModule(StandardizedMixture):
    """A mixture that Lightning trains: by EM without an optimizer, by gradient descent with one.

    Both optimise `layer.objective` on the whole training set, in nats per row. What is logged
    is in the user's units, also when the data are standardised.

    Args:
        layer: the mixture.
        optimizer: None for EM (with `EMCallback`), or a factory that takes the parameters, such
            as `functools.partial(torch.optim.Adam, lr=0.01)`.
        scheduler: a factory that takes the optimizer.

    Attributes:
        standardize: the change of units before the layer; the identity unless the data module
            asks for one. It is part of the checkpoint.
        phase: which of several consecutive fits of one run this is; `passes_before` counts the
            passes of the earlier ones.
        data: name, columns and classes of the data it was trained on, for outputs to carry.

    Example:
        >>> from gmm_lightning.training import GMMModule
        >>> module = GMMModule(GMMLayer(2, 3))
        >>> module.log_prob(torch.zeros(4, 2)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        layer: GMMLayer,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(layer)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.data: dict[str, Any] = {}
        self.phase = self.passes_before = 0
        self._train: list[WeightedMoments] = []
        self._val: list[WeightedMoments] = []
        self._own_units = False

    # -- training ---------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The factory's optimizer, or None for EM.

        Raises:
            InvalidArgumentError: the factory refuses its settings.
        """
        if self.optimizer is None:
            # Lightning warns of what is meant here.
            warnings.filterwarnings("ignore", message=".*fit will run with no optimizer.*")
            return None
        try:
            optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"this optimizer cannot be made: {error}") from error
        if self.scheduler is None:
            return optimizer
        try:
            scheduler = self.scheduler(optimizer)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise InvalidArgumentError(f"this scheduler cannot be made: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Nothing under EM: its step has no graph."""
        if self.optimizer is not None:
            super().backward(loss, *args, **kwargs)

    def e_step(
        self, batch: Batch, responsibilities: Responsibilities = softmax_responsibilities_
    ) -> SufficientStatistics:
        """Expected statistics of rows in the user's units: what `EMCallback` adds up."""
        transform = None if self._own_units else self.standardize
        return e_step(self.layer, batch, responsibilities=responsibilities, transform=transform)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch; under EM 0, for the callback reads the batch by itself."""
        if self.optimizer is None:
            return self.layer.means.new_zeros(())
        batch = as_global_batch(batch, self.trainer.world_size)
        weight = batch.weight
        log_prob = self.layer.log_prob(batch._replace(x=self._standardized(batch.x)))
        total = log_prob.sum() if weight is None else (weight.to(log_prob) * log_prob).sum()
        nll = -total * self.trainer.world_size / self._step_weight(batch)
        loss = nll - self._prior_per_row()
        if not bool(torch.isfinite(loss)):
            check_finite(batch.x)
            raise InvalidDataError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}, batch {batch_idx}: "
                "standardise the data, lower the learning rate, or clip gradients"
            )
        if batch_idx == 0:
            self._train = []
        self._train.append(WeightedMoments.of(log_prob.detach(), weight))
        self.log(
            "train/nll",
            nll.detach() - self.standardize.log_abs_det,
            on_step=True,
            on_epoch=False,
            batch_size=1,
        )
        return loss

    def _step_weight(self, batch: Batch) -> Tensor | int:
        """What all processes hold together in this step: the sum of the weights, or the rows."""
        if batch.weight is None:
            assert batch.global_rows is not None
            return max(batch.global_rows, 1)
        total = self.trainer.strategy.reduce(batch.weight.sum(), reduce_op="sum")
        return torch.where(total > 0, total, 1.0)

    def on_train_epoch_end(self) -> None:
        """Under gradient descent: the mean over the epoch, each batch under its own parameters."""
        if self._train:
            mean = self._reduced_mean(self._train) + self.standardize.log_abs_det
            prior = self._prior_per_row().detach()
            self.log_pass(
                {"train/log_likelihood": mean, "train/objective": mean + prior}, prog_bar=True
            )
            self._train = []

    def on_validation_epoch_start(self) -> None:
        """Begin a new mean."""
        self._val = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Sums the log-likelihood of one batch."""
        batch = as_global_batch(batch, self.trainer.world_size)
        log_prob = self.layer.log_prob(batch._replace(x=self._standardized(batch.x)))
        self._val.append(WeightedMoments.of(log_prob, batch.weight))

    def on_validation_epoch_end(self) -> None:
        """Logs the weighted mean over all rows of all processes."""
        mean = self._reduced_mean(self._val) + self.standardize.log_abs_det
        if not self.trainer.sanity_checking:
            self.log_pass({"val/log_likelihood": mean}, prog_bar=True)

    def _reduced_mean(self, parts: Sequence[WeightedMoments]) -> Tensor:
        """The weighted mean over batches and processes."""
        moments = reduce(operator.add, parts)
        sums = torch.stack([moments.weight * moments.mean, moments.weight])
        total, weight = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return total / torch.where(weight > 0, weight, 1.0)

    def log_pass(self, values: Mapping[str, Tensor | float], *, prog_bar: bool = False) -> None:
        """Log numbers of one pass, equal on all processes, against the number of the pass.

        They are logged as float64: early stopping compares them, and float32 stands still long
        before EM does.
        """
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1}
        wide = {name: self._wide(value) for name, value in values.items()}
        self.log_dict(wide, prog_bar=prog_bar, sync_dist=True, **options)
        self.log("step", self._wide(self.current_pass), sync_dist=True, **options)

    @property
    def current_pass(self) -> int:
        """Passes done in this run, over all its phases."""
        return self.passes_before + self.current_epoch

    def _wide(self, value: Tensor | float) -> Tensor:
        dtype = accumulator_dtype(self.device)
        return torch.as_tensor(value, dtype=dtype, device=self.device)

    # -- data -------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Units do not change during a fit: where they are the data's own, nothing is computed."""
        self._own_units = is_identity(self.standardize)

    def on_train_end(self) -> None:
        """After a fit they may be set anew."""
        self._own_units = False

    def _standardized(self, x: Tensor) -> Tensor:
        """Rows of a batch in standard units."""
        skip = self._own_units and x.shape[-1:] == self.standardize.loc.shape
        return x if skip else self.standardize(x)

    def _prior_per_row(self) -> Tensor:
        """`log_prior / num_samples`, summed over a batch of mixtures; 0 without priors."""
        if not len(self.layer.priors):
            return self.layer.means.new_zeros(())
        return self.layer.log_prior().sum() / self.num_samples

    @property
    def num_samples(self) -> float:
        """What the prior is divided by: rows of the training set, or their total weight.

        Raises:
            InvalidDataError: the data module and the loader do not tell.
        """
        trainer = self.trainer
        datamodule = getattr(trainer, "datamodule", None)
        for name in ("total_weight", "num_train_rows"):
            known = getattr(datamodule, name, None)
            if known is not None:
                return known
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        if dataset is not None and hasattr(dataset, "__len__"):
            return len(dataset)
        raise InvalidDataError(
            "a prior needs the number of training rows: use ArrayDataModule, or a data module "
            "with the attribute num_train_rows"
        )

    def take_units(self, datamodule: Any) -> None:
        """Take over the data's mean and standard deviation, when the data module asks for it."""
        if getattr(datamodule, "standardize", False):
            self.standardize.set(*datamodule.units())

    def setup(self, stage: str) -> None:
        """Units, for a fit that has no `InitializeCallback` to set them."""
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.take_units(getattr(self.trainer, "datamodule", None))

    # -- checkpoints ------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the layer by names and numbers, so that the file alone rebuilds it."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self.data = describe_data(datamodule)
        checkpoint["gmm_lightning"] = {
            "layer": self.layer.to_config(),
            "data": self.data,
            "phase": self.phase,
            "passes_before": self.passes_before,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the phase that the checkpoint was written in."""
        stored = checkpoint.get("gmm_lightning", {})
        self.phase = stored.get("phase", 0)
        self.passes_before = stored.get("passes_before", 0)

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        *,
        layer: GMMLayer | None = None,
    ) -> GMMModule:
        """The trained module, in evaluation mode; no code in the file is ever run.

        Args:
            checkpoint_path: a file written by a fit.
            map_location: as in `torch.load`.
            layer: for families, priors or extensions that are not registered: a layer of the
                same shape to load into.

        Raises:
            CheckpointError: no such file, or one that is truncated, foreign, or holds code.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        module = cls(layer if layer is not None else layer_from_checkpoint(checkpoint))
        module.data = data_from_checkpoint(checkpoint)
        read_state(module, checkpoint, checkpoint_path)
        return module.eval()

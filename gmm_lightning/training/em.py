"""EM as a callback: one M-step at the end of every pass over the data."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.hooks import RemovableHandle

from gmm_lightning.em import Collapse, e_step, m_step
from gmm_lightning.em.fit import fresh, objective_of
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics
from gmm_lightning.training.module import GMMModule

log = logging.getLogger(__name__)

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


class EMCallback(L.Callback):
    """Closed-form M-step on the last batch of a pass: before validation and any checkpoint.

    Every batch contributes its statistics; they are summed over batches, then over processes in
    one reduction, and never stored in the model. A pass that was joined in the middle or cut
    short does no M-step.

    Args:
        target: None for a `GMMModule`; for any other LightningModule the dotted path of the
            `GMMLayer` inside it, for instance `"model.density"`. The layer then learns from the
            rows it is called with in training, and its parameters are frozen for the optimizer.

    Attributes:
        history: the objective of each pass, before its M-step, in nats per row.
        events: components that had to be repaired.
        counts: rows that each component held in the last pass.

    Raises:
        InvalidArgumentError: at the start of a fit, for a target that is not a `GMMLayer`, a
            precision or strategy that EM cannot use, or a loader that pads its shards.
    """

    def __init__(self, target: str | None = None) -> None:
        self.target = target
        self.history: list[float] = []
        self.events: list[Collapse] = []
        self.counts: Tensor | None = None
        self._stats: SufficientStatistics | None = None
        self._latest: list[Collapse] = []
        self._hook: RemovableHandle | None = None
        self._frozen: list[torch.nn.Parameter] = []
        self._next_batch, self._whole = 0, False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer and check that this fit can be exact."""
        if stage != "fit":
            return
        if trainer.precision not in PRECISIONS:
            raise InvalidArgumentError(
                f"EM needs trainer.precision to be one of {', '.join(PRECISIONS)}, got "
                f"{trainer.precision}: sums and factorisations do not survive half precision"
            )
        strategy = type(trainer.strategy).__name__
        if any(word in strategy for word in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise InvalidArgumentError(
                f"EM needs whole parameters on every process, and {strategy} shards them: use "
                "trainer.strategy=ddp"
            )
        layer = self.layer(pl_module)
        if self.target is not None:
            # The reducer would wait for gradients that never come.
            self._frozen = [p for p in layer.parameters() if p.requires_grad]
            for parameter in self._frozen:
                parameter.requires_grad = False
            self._hook = layer.register_forward_pre_hook(self._collect, with_kwargs=True)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Undo what `setup` did to a target layer."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        for parameter in self._frozen:
            parameter.requires_grad = True
        self._frozen = []

    def layer(self, pl_module: L.LightningModule) -> GMMLayer:
        """The layer that this callback trains.

        Raises:
            InvalidArgumentError: there is none at the target; the message lists those found.
        """
        if self.target is None and isinstance(pl_module, GMMModule):
            return pl_module.layer
        found = {name: m for name, m in pl_module.named_modules() if isinstance(m, GMMLayer)}
        if self.target not in found:
            raise InvalidArgumentError(
                f"EMCallback(target={self.target!r}) names no GMMLayer of "
                f"{type(pl_module).__name__}; found are: {', '.join(found) or 'none'}"
            )
        return found[self.target]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a loader whose shards repeat rows."""
        loader = trainer.train_dataloader
        if not isinstance(loader, DataLoader):
            return
        samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
        if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
            raise InvalidArgumentError(
                "this DataLoader was given a distributed sampler, which repeats rows to make "
                "shards equal, so EM would not be exact: use ArrayDataModule, which shards exactly"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a new sum with the first batch; a pass joined later has none."""
        if batch_idx == 0:
            self._stats = None
        self._whole = batch_idx == 0 or (self._whole and batch_idx == self._next_batch)
        self._next_batch = batch_idx + 1

    def _collect(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if module.training and isinstance(module, GMMLayer):
            x = args[0] if args else kwargs["x"]
            self._add(e_step(module, x.detach()))

    def _add(self, stats: SufficientStatistics) -> None:
        self._stats = stats if self._stats is None else self._stats + stats

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add this batch; with the last one, reduce over processes and do the M-step."""
        if self.target is None:
            self._add(outputs["stats"])
        if not (trainer.is_last_batch and self._whole):
            return
        if self._stats is None:
            raise InvalidArgumentError(
                f"EMCallback(target={self.target!r}) saw no rows in a whole pass: the layer was "
                "not called. Call it as layer(x); layer.log_prob(x) runs no hooks"
            )
        stats, self._stats = self._stats, None
        stats = stats.unpack(trainer.strategy.reduce(stats.pack(), reduce_op="sum"))
        layer = self.layer(pl_module)
        self.counts, objective = stats.counts, objective_of(layer, stats)
        found = [replace(e, iteration=len(self.history)) for e in m_step(layer, stats)]
        self.report(fresh(found, self._latest), trainer)
        self._latest = found
        self.history.append(float(objective.mean()))
        self.log_values(pl_module, stats.log_likelihood / stats.total_weight, objective)

    def log_values(
        self, pl_module: L.LightningModule, log_likelihood: Tensor, objective: Tensor
    ) -> None:
        """Log the pass, in the user's units where the module has them."""
        units = 0.0
        if isinstance(pl_module, GMMModule):
            units = float(pl_module.standardize.log_abs_det)
        values = {
            "train/log_likelihood": float(log_likelihood.mean()) + units,
            "train/objective": float(objective.mean()) + units,
        }
        if isinstance(pl_module, GMMModule):
            values["train/nll"] = -values["train/log_likelihood"]
            pl_module.log_pass(values, prog_bar=True)
        else:
            pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def report(self, events: list[Collapse], trainer: L.Trainer) -> None:
        """Keep and log what had to be repaired, once over all processes."""
        self.events += events
        for event in events:
            if trainer.is_global_zero:
                log.warning("%s", event)

    def state_dict(self) -> dict[str, Any]:
        """The history and the repairs: EM itself needs nothing but the parameters."""
        return {
            "history": list(self.history),
            "events": [asdict(event) for event in self.events],
            "latest": [asdict(event) for event in self._latest],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history and the list of repairs."""
        self.history = list(state_dict["history"])
        self.events = [Collapse(**event) for event in state_dict["events"]]
        self._latest = [Collapse(**event) for event in state_dict["latest"]]

"""EM as a callback: one M-step at the end of every pass over the data."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gmm_lightning.em import Annealing, Collapse, e_step
from gmm_lightning.em.annealing import as_annealing, posterior_at
from gmm_lightning.em.ascent import Ascent, numbered
from gmm_lightning.em.collapse import fresh, refusal
from gmm_lightning.em.fit import POLICIES
from gmm_lightning.em.posterior import Posterior
from gmm_lightning.em.reseed import CANDIDATES, Reseeder
from gmm_lightning.em.starts import packed, unpack
from gmm_lightning.em.steps import emptied, without_weight
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.target import require_exact_shards, require_whole, target_layer

log = logging.getLogger(__name__)


class EMCallback(L.Callback):
    """Closed-form M-step on the last batch of a pass: before validation and any checkpoint.

    Every batch contributes its statistics; they are summed over batches, then over processes in
    one reduction, and never stored in the model. A pass that was joined in the middle or cut
    short does no M-step.

    Args:
        target: None for a `GMMModule`; for any other LightningModule the dotted path of the
            `GMMLayer` inside it, for instance `"model.density"`. The layer then learns from the
            rows it is called with in training, and its parameters are frozen for the optimizer.
        acceleration: `squarem` or `anderson`: leap along the path of EM. A leap that lowers the
            objective is taken back, which costs a pass.
        annealing: begin with flat responsibilities: an `Annealing`, or its first inverse
            temperature.
        hard: classification EM: every row belongs to its most probable component alone.
        collapse: what to do with a component that loses its volume or its rows: `floor`,
            `reseed` or `raise`, as in `fit_em`.
        seed: of the rows at which components are reseeded.

    Attributes:
        history: the objective of each pass, before its M-step, in nats per row.
        events: components that had to be repaired.
        counts: rows that each component held in the last pass.

    Raises:
        InvalidArgumentError: at the start of a fit, for a target that is not a `GMMLayer`, a
            precision or strategy that EM cannot use, or a loader that pads its shards.
        CollapseError: under `collapse="raise"`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        acceleration: str | None = None,
        annealing: Annealing | float | None = None,
        hard: bool = False,
        collapse: str = "floor",
        seed: int = 0,
    ) -> None:
        if collapse not in POLICIES:
            raise InvalidArgumentError(
                f"unknown collapse policy {collapse!r}; known are: {', '.join(POLICIES)}"
            )
        self.target, self.annealing = target, as_annealing(annealing)
        self.hard, self.collapse = hard, collapse
        self.ascent = Ascent(acceleration)
        self.history: list[float] = []
        self.events: list[Collapse] = []
        self.counts: Tensor | None = None
        self._stats: SufficientStatistics | None = None
        self._rows, self._weight = torch.zeros(0), None
        self._logged: dict[str, float] = {}
        self._latest: list[Collapse] = []
        self._hook: RemovableHandle | None = None
        self._frozen: list[torch.nn.Parameter] = []
        self._next_batch, self._whole = 0, False
        self._reseeder = Reseeder(torch.zeros(0), torch.Generator().manual_seed(seed))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer and check that this fit can be exact."""
        if stage != "fit":
            return
        require_whole(trainer)
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
        return target_layer(pl_module, self.target, type(self).__name__)

    def posterior(self) -> Posterior:
        """How responsibilities are taken in the present pass."""
        return posterior_at(len(self.history), self.annealing, hard=self.hard)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a loader whose shards repeat rows."""
        require_exact_shards(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a new sum with the first batch; a pass joined later has none."""
        if batch_idx == 0:
            self._stats = None
        self._whole = batch_idx == 0 or (self._whole and batch_idx == self._next_batch)
        self._next_batch = batch_idx + 1
        if isinstance(pl_module, GMMModule):
            pl_module.posterior = self.posterior()

    def _collect(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if module.training and isinstance(module, GMMLayer):
            x = (args[0] if args else kwargs["x"]).detach()
            self._rows = x.reshape(-1, *x.shape[x.dim() - 1 - len(module.batch_shape) :])
            self._add(e_step(module, x, posterior=self.posterior()))

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
            self._rows, self._weight = outputs["rows"], outputs["weight"]
        if not (trainer.is_last_batch and self._whole):
            return
        stats = self.reduced(trainer)
        layer = self.layer(pl_module)
        self.counts = stats.counts
        objective = self.ascent.judge(layer, stats)
        if objective is None:
            # The leap was taken back: what was logged last still holds.
            self.log_values(pl_module, self._logged)
        else:
            self.advance(trainer, pl_module, stats, objective)
        if objective is None or not self.tells_convergence:
            keep_going(trainer)

    def reduced(self, trainer: L.Trainer) -> SufficientStatistics:
        """What was added since the last call, over all processes.

        Raises:
            InvalidArgumentError: nothing was.
        """
        if self._stats is None:
            raise InvalidArgumentError(
                f"{type(self).__name__}(target={self.target!r}) saw no rows in a whole pass: the "
                "layer was not called. Call it as layer(x); layer.log_prob(x) runs no hooks"
            )
        stats, self._stats = self._stats, None
        return stats.unpack(trainer.strategy.reduce(stats.pack(), reduce_op="sum"))

    def advance(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        stats: SufficientStatistics,
        objective: Tensor,
    ) -> None:
        """The M-step of an accepted pass, and what is said of both."""
        layer = self.layer(pl_module)
        # What the start left without rows is not reported by any M-step.
        reseeds = self.collapse == "reseed"
        first = emptied(without_weight(layer), stats) if reseeds and not self.history else []
        found = first + self.ascent.move(layer, stats, leaps=self.annealed(passes=1))
        if found and self.collapse == "raise":
            raise refusal(found[0])
        if found and reseeds:
            found = self.reseeded(trainer, pl_module, found)
        self.report(numbered(found, len(self.history)), trainer)
        self.history.append(float(objective.mean()))
        mean = float((stats.log_likelihood / stats.total_weight).mean())
        self._logged = {
            # Of classification EM it is another quantity: the density of the chosen component.
            f"train/{'classification_' if self.hard else ''}log_likelihood": mean,
            "train/objective": self.history[-1],
        }
        self.log_values(pl_module, self._logged)

    def annealed(self, *, passes: int) -> bool:
        """Whether so many passes before this one were of plain EM already, or none was asked."""
        return self.annealing is None or self.annealing.finished(len(self.history) - passes)

    @property
    def tells_convergence(self) -> bool:
        """Whether the gain of the pass says that EM has converged, if it is small.

        Not while it anneals, after a leap, or where a component was moved.
        """
        moved = any(event.action == "reseeded" for event in self._latest)
        return self.annealed(passes=2) and self.ascent.plain and not moved

    def reseeded(
        self, trainer: L.Trainer, pl_module: L.LightningModule, found: list[Collapse]
    ) -> list[Collapse]:
        """Move collapsed components to poorly explained rows, alike in all processes."""
        layer = self.layer(pl_module)
        if len(self._rows) and trainer.is_global_zero:
            step = -(-len(self._rows) // CANDIDATES)
            rows, weight = self._rows[::step], self._weight
            units = (
                pl_module.standardize if isinstance(pl_module, GMMModule) else torch.nn.Identity()
            )
            self._reseeder.rows = units(rows)
            self._reseeder.weight = None if weight is None else weight[::step].to(rows.device)
            found = self._reseeder(layer, found)
        parameters, found = trainer.strategy.broadcast((packed(layer), found))
        unpack(layer, parameters.to(layer.means.device))
        return found

    def log_values(self, pl_module: L.LightningModule, values: dict[str, float]) -> None:
        """Log the pass, in the user's units where the module has them."""
        if not isinstance(pl_module, GMMModule):
            pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
            return
        units = float(pl_module.standardize.log_abs_det)
        shown = {name: value + units for name, value in values.items()}
        if "train/log_likelihood" in shown:
            shown["train/nll"] = -shown["train/log_likelihood"]
        pl_module.log_pass(shown, prog_bar=True)

    def report(self, found: list[Collapse], trainer: L.Trainer) -> None:
        """Keep and log what had to be repaired, once over all processes and passes."""
        events, self._latest = fresh(found, self._latest), found
        self.events += events
        for event in events:
            if trainer.is_global_zero:
                log.warning("%s", event)

    def state_dict(self) -> dict[str, Any]:
        """The history, the repairs, and where a leap started from."""
        return {
            "history": list(self.history),
            "events": [asdict(event) for event in self.events],
            "latest": [asdict(event) for event in self._latest],
            "logged": dict(self._logged),
            "ascent": self.ascent.state_dict(),
            "reseeder": self._reseeder.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.history = list(state_dict["history"])
        self.events = [Collapse(**event) for event in state_dict["events"]]
        self._latest = [Collapse(**event) for event in state_dict["latest"]]
        self._logged = dict(state_dict["logged"])
        self.ascent.load_state_dict(state_dict["ascent"])
        self._reseeder.load_state_dict(state_dict["reseeder"])


def keep_going(trainer: L.Trainer) -> None:
    """Let early stopping judge the next pass by this one, whatever it gained."""
    stopping = trainer.early_stopping_callback
    if stopping is not None:
        stopping.wait_count = 0
        stopping.best_score = torch.full_like(stopping.best_score, -torch.inf)

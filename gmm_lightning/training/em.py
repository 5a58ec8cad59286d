"""EM as a callback: one M-step at the end of every pass over the data."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import lightning as L
import torch

from gmm_lightning._validation import require_number
from gmm_lightning.em import (
    Accelerator,
    Annealing,
    Collapsed,
    CollapsePolicy,
    MixtureModel,
    MixtureParameters,
    MonotoneUpdater,
    ResponsibilitySchedule,
    StoppingRule,
    maximize,
    stopping_rules,
    with_closed_forms,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training.collapse import CollapseHandler
from gmm_lightning.training.em_base import BaseEMCallback

_log = logging.getLogger(__name__)


class EMCallback(BaseEMCallback):
    """Does a closed-form M-step at the last batch of a pass, before validation and checkpoints.

    Statistics are summed over batches, then over processes in one reduction, and never stored in
    the model. A pass that was resumed in the middle or cut short does no M-step.

    Args:
        target: None for a `GMMModule`; for any other LightningModule the dotted path of the
            `GMMLayer` inside it, for instance `"model.density"`, with or without `self.`. The
            layer then learns from the rows it is called with in training, each counted once, and
            is frozen for the optimizer. `InitializeCallback` with the same target initialises it.
        tol: of the stopping rule, in nats per row, as in `fit_em`; None: go on.
        stopping: `aitken`, `gain`, `relative`, or another `StoppingRule`, as in `fit_em`.
        acceleration: `squarem` or `anderson`: extrapolate along the path of EM, after its first
            ten steps. A step that lowers the objective is undone, which costs a pass. None: plain
            EM.
        annealing: begin with flat responsibilities: an `Annealing`, or its first inverse
            temperature.
        hard: classification EM: every row belongs to its most probable component alone.
        collapse: what to do with a component that loses its volume or its rows: `floor`,
            `reseed`, `raise` or a `CollapsePolicy`, as in `fit_em`.
        seed: of the rows at which components are reseeded.
        skip_nonfinite: for a target: leave out rows with NaN or infinity, and count them. They
            still reach the loss.
        missing: `em`: rows may have missing entries, as in `fit_em`; a data module with
            `missing="em"` says so, too. None refuses them.
        conjugate_only: leave out the priors that have no closed form, as in `fit_em`.

    Attributes:
        history: the objective of each pass, before its M-step, in nats per row.
        events: components that had to be repaired.
        counts: rows that each component held in the last pass.
        degenerate: after the fit, components that can have any likelihood, as in `EMResult` (with
            weights, by the mean weight of all rows).
        skipped: rows that were left out, over all processes and passes.
        converged: whether the fit has ended by `tol`.

    Raises:
        InvalidArgumentError: options that contradict each other; at the start of a fit, for a
            target that is not a `GMMLayer`, a precision or strategy that EM cannot use, or a
            loader that pads its shards.
        InvalidDataError: rows that are not finite (by number in their batch), or a pass without
            finite rows.
        CollapseError: under `collapse="raise"`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        tol: float | None = None,
        stopping: str | StoppingRule = "aitken",
        acceleration: str | Accelerator | None = "squarem",
        annealing: Annealing | float | None = None,
        hard: bool = False,
        collapse: str | CollapsePolicy = "floor",
        seed: int = 0,
        skip_nonfinite: bool = False,
        missing: str | None = None,
        conjugate_only: bool = False,
    ) -> None:
        super().__init__(
            target,
            ResponsibilitySchedule.create(hard=hard, annealing=annealing),
            CollapseHandler(collapse, seed),
            skip_nonfinite=skip_nonfinite,
            missing=missing,
            conjugate_only=conjugate_only,
        )
        self.tol = None if tol is None else require_number("tol", tol, least=0)
        self.stopping = stopping_rules.create(stopping)
        if self.stopping.watches_responsibilities:
            raise InvalidArgumentError(
                f"stopping={self.stopping.name!r} compares the responsibilities of all rows, which "
                "a callback does not keep: use fit_em, or another rule"
            )
        self._updater = MonotoneUpdater(None if hard else acceleration)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer and check that this fit can be exact."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._updater.resize(self.layer(pl_module).batch_shape.numel())

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Reduce over processes and do the M-step, with the last batch of a whole pass."""
        if not (trainer.is_last_batch and self._accumulator.is_whole):
            return
        layer, iteration = self.layer(pl_module), len(self.history)
        stats = self._accumulator.reduce(trainer.strategy, layer)
        self._require_rows(int(stats.num_samples))
        self.counts = self._pass_counts = stats.counts
        self._mean_weight = float(stats.total_weight.mean() / stats.num_samples)
        model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
        model = with_closed_forms(model)
        stats = stats.reshape((parameters.num_mixtures,))
        objective = model.objective(parameters, stats)
        rejected = self._updater.rejected(objective)
        if bool(rejected.any()):
            # The next pass is at the parameters before the extrapolation; until then the last
            # logged numbers still hold.
            self._updater.restore(parameters, rejected).write_to(layer)
            self._log_again(pl_module)
            self._keep_going(trainer)
            return
        comparable = self._schedule.is_stationary(iteration) and not self._collapse.has_moved
        same_path = torch.full(objective.shape, comparable)
        self._updater.accept(objective, self.tol or 0.0, same_path)
        if self.tol is not None and comparable:
            settled = self.stopping.settled(self._updater.gains, self.tol)
            self.converged = bool(settled.all())
            trainer.should_stop = trainer.should_stop or self.converged
        step = maximize(model, parameters, stats)
        step.require_regular()
        updated, collapsed = step.parameters, step.collapsed
        if self._schedule.is_stationary(iteration) and not self.converged:
            disturbed = None if collapsed is None else collapsed.mixtures
            updated = self._updater.extrapolate(model, parameters, updated, disturbed)
        if iteration == 0:
            # No M-step reports the components that the start left without rows.
            held = model.is_held
            collapsed = Collapsed.with_weightless(collapsed, parameters, stats.counts, held)
        candidates = partial(self._candidates, pl_module)
        updated = self._collapse.handle(trainer, model, updated, collapsed, iteration, candidates)
        weight = stats.total_weight
        self._log_pass(trainer, pl_module, stats.log_likelihood / weight, objective, weight)
        updated.write_to(layer)
        if not self._gain_is_comparable():
            self._keep_going(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the degenerate components; warn of a fit that ended before its first M-step."""
        super().on_train_end(trainer, pl_module)
        if not self.history and trainer.is_global_zero:
            _log.warning(
                "%s did no M-step, so the mixture is as it was: the fit ended after %d of the %s "
                "batches of its first pass (max_steps?)",
                self.name,
                self._accumulator.next_batch,
                trainer.num_training_batches,
            )

    def _gain_is_comparable(self) -> bool:
        """False while it anneals, after an extrapolation, or where a component was moved."""
        stationary = self._schedule.is_stationary(len(self.history) - 1)
        from_m_step = bool(self._updater.from_m_step.all())
        return stationary and from_m_step and not self._collapse.has_moved

    def _keep_going(self, trainer: L.Trainer) -> None:
        """Make early stopping ignore the gain of this pass, in values that this callback logs."""
        for stopping in trainer.early_stopping_callbacks:
            if self.target is None or stopping.monitor in self._logged:
                worst = -torch.inf if stopping.mode == "max" else torch.inf
                stopping.wait_count = 0
                stopping.best_score = torch.full_like(stopping.best_score, worst)

    def state_dict(self) -> dict[str, Any]:
        """The history, the repairs, and the state of the extrapolation."""
        return super().state_dict() | {"updater": self._updater.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        super().load_state_dict(state_dict)
        self._updater.load_state_dict(state_dict["updater"])

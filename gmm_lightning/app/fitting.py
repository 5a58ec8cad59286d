"""The fit of a run: one phase after another on one model."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gmm_lightning.app.failures import resume_hint
from gmm_lightning.app.folder import RunFolder
from gmm_lightning.app.logs import constant_note, describe
from gmm_lightning.app.processes import Interrupted
from gmm_lightning.app.trust import settle
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.training import (
    BaseEMCallback,
    GMMModule,
    GracefulStop,
    RowsDataModule,
    check_progress,
    going_on,
    read_state,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A finished fit.

    Attributes:
        module: the model at its final parameters.
        trainer: of the last phase.
        passes: over the data, in all phases and before a resume.
        seconds: spent in this process's fits.
        rows_per_second: read in them.
        events: components that had to be repaired, in all phases.
    """

    module: GMMModule
    trainer: L.Trainer
    passes: int
    seconds: float
    rows_per_second: float
    events: list[str]

    def outcome(self) -> dict[str, Any]:
        """The numbers of the fit, for `metrics.json`."""
        stopping = self.trainer.early_stopping_callback
        callbacks = getattr(self.trainer, "callbacks", [])
        closed = [c for c in callbacks if isinstance(c, BaseEMCallback)]
        ended = any(callback.converged for callback in closed)
        own = {name: value for c in closed for name, value in c.outcome().items()}
        return own | {
            "iterations": self.passes,
            "converged": ended or bool(stopping is not None and stopping.stopped_epoch > 0),
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows_per_second),
            "repaired": self.events,
        }


def fit(
    phases: list[DictConfig],
    data: RowsDataModule,
    checkpoint: dict[str, Any] | None,
    folder: RunFolder,
) -> Fitted:
    """Run the phases of a configuration in a folder, from the start or from a checkpoint.

    Args:
        phases: from `phases_of`.
        data: of the fit.
        checkpoint: to go on from.
        folder: of the run.

    Raises:
        Interrupted: a signal ended the fit after a whole pass.
    """
    first = passes = resumed = 0
    if checkpoint is not None:
        check_progress(checkpoint, phases[0].resume)
        stored = checkpoint["gmm_lightning"]
        first, passes = stored.get("phase", 0), stored.get("passes_before", 0)
        resumed = checkpoint["epoch"] + 1
        if first >= len(phases):
            raise CheckpointError(
                f"{phases[0].resume} is of fit {first + 1} of a run, and this one has "
                f"{len(phases)}: resume it with the settings that it was started with"
            )
    trainer = _make_trainer(phases[first], folder, resumes=checkpoint is not None)
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs < resumed:
        raise InvalidArgumentError(
            f"{phases[0].resume} has done {resumed} passes, and this fit ends after "
            f"{trainer.max_epochs}: give a larger fit.max_iter"
        )
    # The model is made in the precision of the trainer.
    with trainer.init_module():
        module: GMMModule = instantiate(phases[first].model, _convert_="all")
    if checkpoint is not None:
        read_state(module, checkpoint, phases[0].resume)
    if trainer.is_global_zero:
        log.info(describe(data, module, trainer))
    if resumed:
        log.info("going on after pass %d", passes + resumed)
    seconds, done = 0.0, -resumed
    objectives: list[float] = []
    events: list[str] = []
    for index in range(first, len(phases)):
        phase = phases[index]
        if index > first:
            # TensorBoard reads files in the order of their names, which begin with the second.
            time.sleep(1 - time.time() % 1)
            trainer = _make_trainer(phase, folder)
        module.optimizer = instantiate(phase.model.optimizer, _convert_="all")
        module.scheduler = instantiate(phase.model.scheduler, _convert_="all")
        module.phase, module.passes_before = index, passes
        data.shuffle, data.batch_size = phase.data.shuffle, phase.data.batch_size
        resume = phases[0].resume if index == first else None
        started = time.perf_counter()
        with going_on(trainer, resume, resumed):
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        seconds += time.perf_counter() - started
        objectives.append(float(trainer.callback_metrics.get("train/objective", float("nan"))))
        passes, done = passes + trainer.current_epoch, done + trainer.current_epoch
        for callback in getattr(trainer, "callbacks", []):
            if isinstance(callback, BaseEMCallback):
                events += map(str, callback.events)
            if isinstance(callback, GracefulStop) and callback.signum is not None:
                raise Interrupted(
                    f"interrupted after {passes} passes; {resume_hint(folder.path)}",
                    callback.signum,
                )
    if module.layer.constant_features and trainer.is_global_zero:
        log.warning("%s", constant_note(module.layer, data.columns))
    # EM leaves out the priors without a closed form: its objective is another one.
    comparable = all("em" in prior.fits for prior in module.layer.all_priors)
    if comparable and len(objectives) > 1 and objectives[-1] < objectives[-2]:
        log.warning(
            "gradient descent ended below EM, at an objective of %.6f after %.6f: lower "
            "fit.then.model.optimizer.lr, or use fit=em",
            objectives[-1],
            objectives[-2],
        )
    rate = done * data.num_train_rows / max(seconds, 1e-9)
    return Fitted(module, trainer, passes, seconds, rate, events)


def phases_of(config: DictConfig) -> list[DictConfig]:
    """The settings of the consecutive fits of a run: the first, then with `fit.then` on top of it.

    Every interpolation in them is resolved.
    """
    phases = [config]
    if config.fit.get("then"):
        base = config.copy()
        OmegaConf.set_struct(base, value=False)
        second = OmegaConf.merge(base, config.fit.then)
        assert isinstance(second, DictConfig)
        phases.append(second)
    return [settle(phase) for phase in phases]


def _make_trainer(config: DictConfig, folder: RunFolder, *, resumes: bool = False) -> L.Trainer:
    """The trainer of one phase, with its callbacks and logger."""
    silent = config.quiet or not config.callbacks.get("progress")
    # What is read from a checkpoint needs no start, nor the run that it was taken from.
    left_out = {"progress": silent, "initialize": resumes}
    callbacks = [
        instantiate(callback, _convert_="all")
        for name, callback in config.callbacks.items()
        if callback and not left_out.get(name, False)
    ]
    logger = _make_logger(config.logger) if config.get("logger") else False
    bar = {"enable_progress_bar": False} if silent else {}
    return instantiate(config.trainer, callbacks=[folder, *callbacks], logger=logger, **bar)


def _make_logger(config: DictConfig) -> Any:
    try:
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        if not isinstance(error.__cause__, TypeError):
            raise
        raise InvalidArgumentError(
            f"this logger cannot be made: {error.__cause__}; choose a group with its arguments, "
            "such as logger=mlflow or logger=wandb, or take one away by ~logger.<name>"
        ) from error

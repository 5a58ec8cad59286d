"""Numbers, settings and pictures of a mixture for every logger of a fit."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.training.checkpoint import is_dry
from gmm_lightning.training.em_base import BaseEMCallback
from gmm_lightning.training.module import GMMModule
from gmm_lightning.training.pictures import draw_mixture, some_rows

# More means than one can read are not logged.
_MAX_MEANS = 64


class MixtureLogger(L.Callback):
    """Logs the components of a `GMMModule` each pass, its settings, and pictures every few passes.

    To every logger: at the start the layer, the data, and how they are fitted, as
    hyper-parameters; every pass weight, effective count and condition number of each component,
    and up to 64 entries of the means in the user's units, as scalars beside those that the fit
    logs itself. To loggers that can show it: a picture of the mixture (TensorBoard, and any
    with `log_image(key, images, step=)`). To TensorBoard also repaired components as text, with
    each picture a histogram of the entropy of the responsibilities in nats, and at the end the
    rows with their components, for the projector.

    Args:
        every_n_passes: how often a picture of the mixture is drawn; the last pass always is.
        max_points: rows in pictures, histograms and the projector.
    """

    def __init__(self, every_n_passes: int = 10, max_points: int = 2000) -> None:
        self.every_n_passes = require_integer("every_n_passes", every_n_passes, least=1)
        self.max_points = require_integer("max_points", max_points, least=1)
        self._num_logged = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the settings; leave out the repairs that a resumed fit has logged before."""
        em = _em_callback(trainer)
        self._num_logged = len(em.events) if em is not None else 0
        if isinstance(pl_module, GMMModule):
            for logger in _loggers(trainer):
                logger.log_hyperparams(_settings(pl_module, trainer))

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the numbers of this pass, and pictures every few passes."""
        loggers = _loggers(trainer)
        if not loggers or not isinstance(pl_module, GMMModule):
            return
        em, step = _em_callback(trainer), pl_module.current_pass
        numbers = _component_numbers(pl_module, trainer, em)
        for logger in loggers:
            logger.log_metrics(numbers, step)
        if em is not None:
            for event in em.events[self._num_logged :]:
                for writer in _writers(loggers):
                    writer.add_text("repaired components", str(event), step)
            self._num_logged = len(em.events)
        if step % self.every_n_passes == 0:
            self._log_figures(loggers, trainer, pl_module)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the final pictures, and the rows for the projector."""
        loggers = _loggers(trainer)
        if not loggers or not isinstance(pl_module, GMMModule):
            return
        self._log_figures(loggers, trainer, pl_module)
        rows = some_rows(pl_module, getattr(trainer, "datamodule", None), self.max_points)
        for writer in _writers(loggers):
            if rows is not None and pl_module.layer.num_features > 1:
                z, step = pl_module.standardize(rows), pl_module.current_pass
                labels = [str(k) for k in pl_module.layer.predict(z).tolist()]
                writer.add_embedding(z.float(), metadata=labels, tag="rows", global_step=step)
            writer.flush()

    def _log_figures(self, loggers: list[Logger], trainer: L.Trainer, module: GMMModule) -> None:
        """Show the mixture, and the entropy of responsibilities of some rows."""
        data, step = getattr(trainer, "datamodule", None), module.current_pass
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = draw_mixture(module, data, self.max_points)
                logger.experiment.add_figure("mixture", figure, step)
            elif hasattr(logger, "log_image"):
                figure = draw_mixture(module, data, self.max_points)
                logger.log_image("mixture", [figure], step=step)  # pyright: ignore
        rows = some_rows(module, data, self.max_points)
        for writer in _writers(loggers) if rows is not None else []:
            log_joint = module.layer.log_joint_with_noise(module.standardize(rows))
            log_resp = log_joint.log_softmax(-1)
            entropy = -(log_resp.exp() * log_resp).nan_to_num().sum(-1)
            writer.add_histogram("responsibility_entropy", entropy, step)


def _em_callback(trainer: L.Trainer) -> BaseEMCallback | None:
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    return next((c for c in callbacks if isinstance(c, BaseEMCallback)), None)


def _loggers(trainer: L.Trainer) -> list[Logger]:
    """The loggers to write to: none in a dry run, and on other processes than the first."""
    return trainer.loggers if trainer.is_global_zero and not is_dry(trainer) else []


def _writers(loggers: list[Logger]) -> list[Any]:
    """TensorBoard's writers."""
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _settings(module: GMMModule, trainer: L.Trainer) -> dict[str, Any]:
    """Layer, data and way of fitting, as text and numbers."""
    data: Any = getattr(trainer, "datamodule", None)
    known = ("name", "num_train_rows", "batch_size", "shuffle", "standardize", "seed")
    em = _em_callback(trainer)
    fit: dict[str, Any] = {"by": type(em).__name__}
    if em is None:
        fit = {"by": type(trainer.optimizers[0]).__name__ if trainer.optimizers else "none"}
        fit |= {"lr": trainer.optimizers[0].param_groups[0]["lr"]} if trainer.optimizers else {}
    return {
        "layer": module.layer.to_config(),
        "rows": {name: getattr(data, name) for name in known if hasattr(data, name)},
        "training": fit | {"precision": str(trainer.precision), "processes": trainer.world_size},
    }


def _component_numbers(
    module: GMMModule, trainer: L.Trainer, em: BaseEMCallback | None
) -> dict[str, float]:
    """Numbers of each component, by name."""
    layer, counts = module.layer, None if em is None else em.counts
    singular = torch.linalg.svdvals(layer.scale_tril.double())
    per_component = {
        "weights": layer.weights,
        "condition_number": (singular[..., 0] / singular[..., -1]).square(),
    }
    if counts is None:
        # By gradient the number of rows may not be known.
        with suppress(InvalidDataError):
            share = 1 if layer.noise is None else 1 - layer.noise.weight.unsqueeze(-1)
            counts = layer.weights * share * module.num_samples
    if counts is not None:
        per_component["effective_counts"] = counts
    numbers = {
        f"{name}/{k}": value
        for name, values in per_component.items()
        for k, value in enumerate(values.reshape(-1).tolist())
    }
    if layer.noise is not None:
        weights = layer.noise.weight.reshape(-1).tolist()
        numbers |= {f"noise_weight/{m}": weight for m, weight in enumerate(weights)}
    if layer.means.numel() <= _MAX_MEANS:
        columns = getattr(getattr(trainer, "datamodule", None), "columns", None)
        if columns is None or len(columns) != layer.num_features:
            columns = [f"x{i}" for i in range(layer.num_features)]
        means = module.standardize.inverse(layer.means).reshape(-1, layer.num_features).tolist()
        for k, mean in enumerate(means):
            names = [f"means/{k}/{column}" for column in columns]
            numbers |= dict(zip(names, mean, strict=True))
    return numbers

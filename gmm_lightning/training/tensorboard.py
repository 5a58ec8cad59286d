"""Numbers and pictures of a fit in TensorBoard."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.plotting import plot_mixture
from gmm_lightning.training.checkpoint import is_dry
from gmm_lightning.training.em_base import BaseEMCallback
from gmm_lightning.training.module import GMMModule


class MixtureLogger(L.Callback):
    """Logs the components each pass, pictures every few passes, and the rows at the end.

    Every pass: weight, effective count and condition number of each component, and repaired
    components as text. With each picture: a histogram of the entropy of the responsibilities in
    nats. At the end: the rows with their components, for the projector.

    Args:
        every_n_passes: how often a picture of the mixture is drawn; the last pass always is.
        max_points: rows in pictures, histograms and the projector.
    """

    def __init__(self, every_n_passes: int = 10, max_points: int = 2000) -> None:
        self.every_n_passes = require_integer("every_n_passes", every_n_passes, least=1)
        self.max_points = require_integer("max_points", max_points, least=1)
        self._num_logged = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave out the repairs that a resumed fit has logged before."""
        em = self._em(trainer)
        self._num_logged = len(em.events) if em is not None else 0

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the numbers of this pass, and pictures every few passes."""
        writer = self._writer(trainer)
        if writer is None or not isinstance(pl_module, GMMModule):
            return
        layer, step, em = pl_module.layer, pl_module.current_pass, self._em(trainer)
        counts = None if em is None else em.counts
        singular = torch.linalg.svdvals(layer.scale_tril.double())
        per_component = {
            "weights": layer.weights,
            "effective_counts": layer.weights * pl_module.num_samples if counts is None else counts,
            "condition_number": (singular[..., 0] / singular[..., -1]).square(),
        }
        for name, values in per_component.items():
            for k, value in enumerate(values.reshape(-1).tolist()):
                writer.add_scalar(f"{name}/{k}", value, step)
        if em is not None:
            for event in em.events[self._num_logged :]:
                writer.add_text("repaired components", str(event), step)
            self._num_logged = len(em.events)
        if step % self.every_n_passes == 0:
            self._log_figures(writer, trainer, pl_module)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the final pictures, and the rows for the projector."""
        writer = self._writer(trainer)
        if writer is None or not isinstance(pl_module, GMMModule):
            return
        z = self._log_figures(writer, trainer, pl_module)
        if z is not None and pl_module.layer.num_features > 1:
            step, component = pl_module.current_pass, pl_module.layer.predict(z).tolist()
            labels = [str(k) for k in component]
            writer.add_embedding(z.float(), metadata=labels, tag="rows", global_step=step)
        writer.flush()

    def _log_figures(self, writer: Any, trainer: L.Trainer, module: GMMModule) -> Tensor | None:
        """Log the mixture and the entropy of responsibilities of some rows; returns the rows."""
        data, step = getattr(trainer, "datamodule", None), module.current_pass
        writer.add_figure("mixture", draw_mixture(module, data, self.max_points), step)
        rows = _some_rows(module, data, self.max_points)
        if rows is None:
            return None
        z = module.standardize(rows)
        log_resp = module.layer.log_responsibilities(z)
        entropy = -(log_resp.exp() * log_resp).nan_to_num().sum(-1)
        writer.add_histogram("responsibility_entropy", entropy, step)
        return z

    def _em(self, trainer: L.Trainer) -> BaseEMCallback | None:
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        return next((c for c in callbacks if isinstance(c, BaseEMCallback)), None)

    def _writer(self, trainer: L.Trainer) -> Any:
        if not trainer.is_global_zero or is_dry(trainer):
            return None
        loggers = (x for x in trainer.loggers if isinstance(x, TensorBoardLogger))
        return next((x.experiment for x in loggers), None)


def _some_rows(module: GMMModule, datamodule: Any, max_points: int) -> Tensor | None:
    """At most `max_points` training rows, evenly spaced, in the user's units."""
    if not hasattr(datamodule, "some_rows"):
        return None
    return datamodule.some_rows(max_points).to(module.layer.means)


@torch.no_grad()
def draw_mixture(module: GMMModule, datamodule: Any, max_points: int = 2000) -> Figure:
    """A picture of a fit, in the user's units up to two features, in standard units beyond.

    More features are projected on the first two principal components, which in raw units would
    mostly show the feature with the largest numbers.
    """
    rows = _some_rows(module, datamodule, max_points)
    columns = getattr(datamodule, "columns", None)
    if module.layer.num_features <= 2:
        mixture = module.distribution()
    else:
        mixture = module.layer.distribution()
        rows = None if rows is None else module.standardize(rows)
    title = f"{getattr(datamodule, 'name', 'data')}: {module.layer.num_components} components"
    figure = plot_mixture(mixture, rows, columns=columns, title=title).figure
    assert isinstance(figure, Figure)
    return figure

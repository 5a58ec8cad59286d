"""What a person watches in TensorBoard while a mixture is fitted."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import plot_mixture
from gmm_lightning.training.checkpoint import is_dry
from gmm_lightning.training.em import EMCallback
from gmm_lightning.training.module import GMMModule


class MixtureLogger(L.Callback):
    """Logs weights, effective counts and condition numbers each pass, and pictures now and then.

    Args:
        every_n_passes: how often a picture of the mixture is drawn; the last pass always is.
        max_points: rows drawn under it.
    """

    def __init__(self, every_n_passes: int = 10, max_points: int = 2000) -> None:
        if every_n_passes < 1:
            raise InvalidArgumentError(f"every_n_passes must be >= 1, got {every_n_passes}")
        self.every_n_passes, self.max_points = every_n_passes, max_points

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Numbers of this pass, and a picture when one is due."""
        writer = self._writer(trainer)
        if writer is None or not isinstance(pl_module, GMMModule):
            return
        step = trainer.current_epoch
        for name, values in self.numbers(trainer, pl_module).items():
            for k, value in enumerate(values.reshape(-1).tolist()):
                writer.add_scalar(f"{name}/{k}", value, step)
        if step % self.every_n_passes == 0:
            writer.add_figure("mixture", self.picture(trainer, pl_module), step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The final picture."""
        writer = self._writer(trainer)
        if writer is not None and isinstance(pl_module, GMMModule):
            writer.add_figure("mixture", self.picture(trainer, pl_module), trainer.current_epoch)
            writer.flush()

    @torch.no_grad()
    def numbers(self, trainer: L.Trainer, module: GMMModule) -> dict[str, torch.Tensor]:
        """Per component: weight, effective count, condition number of the covariance."""
        layer = module.layer
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        counts = next((c.counts for c in callbacks if isinstance(c, EMCallback)), None)
        if counts is None:
            counts = layer.weights * module.num_samples
        singular = torch.linalg.svdvals(layer.scale_tril.double())
        return {
            "weights": layer.weights,
            "effective_counts": counts,
            "condition_number": (singular[..., 0] / singular[..., -1]).square(),
        }

    def picture(self, trainer: L.Trainer, module: GMMModule) -> Figure:
        """The mixture over a part of the training rows."""
        return draw(module, getattr(trainer, "datamodule", None), self.max_points)

    def _writer(self, trainer: L.Trainer) -> Any:
        if not trainer.is_global_zero or is_dry(trainer):
            return None
        return next(
            (x.experiment for x in trainer.loggers if isinstance(x, TensorBoardLogger)), None
        )


@torch.no_grad()
def draw(module: GMMModule, datamodule: Any, max_points: int = 2000) -> Figure:
    """One picture of a fit: in the user's units up to two features, in standard units beyond.

    More features are projected on the mixture's first principal pair, which in raw units would
    show little but the feature with the largest numbers.
    """
    rows = getattr(datamodule, "train_rows", None)
    if rows is not None:
        rows = rows[:: max(1, len(rows) // max_points)].to(module.layer.means)
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

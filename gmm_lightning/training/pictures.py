"""Pictures of a fit."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gmm_lightning._messages import unformatted
from gmm_lightning.plotting import plot_mixture
from gmm_lightning.training.module import GMMModule


def some_rows(module: GMMModule, datamodule: Any, max_points: int) -> Tensor | None:
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
    rows = some_rows(module, datamodule, max_points)
    noise = None
    if rows is not None and module.layer.noise is not None:
        noise = module.noise_probability(rows) > 0.5
    columns = getattr(datamodule, "columns", None)
    columns = None if columns is None else tuple(map(unformatted, columns))
    if module.layer.num_features <= 2:
        mixture = module.distribution()
    else:
        mixture = module.layer.distribution()
        rows = None if rows is None else module.standardize(rows)
    name = unformatted(getattr(datamodule, "name", "data"))
    title = f"{name}: {module.layer.num_components} components"
    figure = plot_mixture(mixture, rows, noise=noise, columns=columns, title=title).figure
    assert isinstance(figure, Figure)
    return figure

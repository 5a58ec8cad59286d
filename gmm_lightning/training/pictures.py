"""Pictures of a fit."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gmm_lightning._messages import unformatted
from gmm_lightning.distributions import affine
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.plotting import plot_mixture, plot_prior_predictive
from gmm_lightning.priors import sample_prior
from gmm_lightning.rows import Batch, complete
from gmm_lightning.training.module import GMMModule

# Rows among which those with all entries are looked for, for each row of a picture.
_LOOKED_THROUGH = 8


def some_rows(module: GMMModule, datamodule: Any, max_points: int) -> Tensor | None:
    """At most `max_points` training rows, evenly spaced, in the user's units.

    Of rows with missing entries those are taken that have all; None if there are none.
    """
    if not hasattr(datamodule, "some_rows"):
        return None
    if module.missing is None:
        return datamodule.some_rows(max_points).to(module.layer.means)
    rows = complete(Batch(datamodule.some_rows(_LOOKED_THROUGH * max_points))).x
    rows = rows[:: max(1, -(-len(rows) // max_points))]
    return rows.to(module.layer.means) if len(rows) else None


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


@torch.no_grad()
def draw_prior(
    module: GMMModule, datamodule: Any, seed: int = 0, num_draws: int = 500, max_points: int = 2000
) -> Figure:
    """A picture of rows that the priors expect, beside training rows, in the user's units.

    Of more than two features the first two are shown.

    Raises:
        InvalidArgumentError: a prior is missing or improper, or there are no rows without missing
            entries.
    """
    layer = module.layer
    generator = torch.Generator(layer.means.device).manual_seed(seed)
    shape = MixtureShape(
        layer.num_components, layer.num_features, layer.covariance, tuple(layer.batch_shape)
    )
    draws = sample_prior(layer.priors, shape, num_draws, generator)
    rows = some_rows(module, datamodule, max_points)
    if rows is None:
        raise InvalidArgumentError("no training row has all entries, beside which to draw a prior")
    units = module.standardize
    draws = affine(draws, units.scale.diag_embed(), units.loc)
    columns = getattr(datamodule, "columns", None)
    columns = None if columns is None else tuple(map(unformatted, columns))
    dims = None if layer.num_features <= 2 else (0, 1)
    title = f"{unformatted(getattr(datamodule, 'name', 'data'))}: what the priors expect"
    how: dict[str, Any] = {"columns": columns, "dims": dims, "title": title}
    figure = plot_prior_predictive(draws, rows, generator=generator, **how).figure
    assert isinstance(figure, Figure)
    return figure

"""Pictures of what a prior believes, alone and beside the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Generator

from gmm_lightning._validation import as_generator, require_integer
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._points import draw_points
from gmm_lightning.plotting._rows import Values, finite_rows
from gmm_lightning.plotting._view import Dims, feature_view
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import PAPER_GREY, palette

# The window reaches this many widths of the data beyond them.
_BEYOND = 2.0


def plot_prior_predictive(
    draws: MixtureOfGaussians,
    x: Values,
    *,
    ax: Axes | None = None,
    num_rows: int = 4000,
    dims: Dims | None = None,
    columns: Sequence[str] | None = None,
    max_points: int = 5000,
    generator: Generator | int | None = None,
    title: str | None = None,
) -> Axes:
    """Draw rows that a prior expects beside the rows that there are: one of each draw in turn.

    A prior that is in agreement with the data covers them, and not much more. The window reaches
    two widths of the data beyond them; how many rows lie outside is said in the legend.

    Args:
        draws: A batch of mixtures drawn from a prior (`priors.sample_prior`).
        x: Rows `(*S, D)`.
        ax: Axes to draw on, and to return; None makes a new figure.
        num_rows: Rows to draw.
        dims: One or two features to show, by position or name.
        columns: Names of the D features.
        max_points: Largest number of points drawn of each kind.
        generator: Source of randomness, or a seed.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Too many features, a single mixture, or no rows.

    References:
        A. Gelman et al. (2020), Bayesian workflow.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_prior_predictive
        >>> scale = torch.eye(1).expand(20, 2, 1, 1)
        >>> draws = MixtureOfGaussians(torch.zeros(20, 2), torch.randn(20, 2, 1), scale)
        >>> plot_prior_predictive(draws, torch.randn(50, 1), generator=0).get_ylabel()
        'density'
    """
    if not isinstance(draws, MixtureOfGaussians) or not draws.batch_shape:
        raise InvalidArgumentError(
            f"expected draws as a batch of mixtures (S), got {type(draws).__name__} of batch shape "
            f"{tuple(getattr(draws, 'batch_shape', ()))}"
        )
    require_integer("num_rows", num_rows, least=1)
    num_features = draws.num_features
    view = feature_view(num_features, dims, columns)
    rows = view.rows(finite_rows(x, num_features))
    if not len(rows):
        raise InvalidArgumentError("expected rows to compare the prior with, got none")
    each = -(-num_rows // draws.batch_shape.numel())
    source = as_generator(generator, draws.means.device)
    drawn = torch.as_tensor(draws.sample(each, generator=source))
    expected = view.rows(finite_rows(drawn.reshape(-1, num_features), num_features))
    low, high = rows.min(0), rows.max(0)
    reach = _BEYOND * np.where(high > low, high - low, 1.0)
    window = np.stack([low - reach, high + reach], 1)
    inside = ((expected >= window[:, 0]) & (expected <= window[:, 1])).all(1)
    label = f"prior ({100 * (1 - inside.mean()):.3g}% outside)"
    ax = axes_or_new(ax, title)
    colors = (PAPER_GREY, palette(2)[1])
    if view.is_line:
        edges = np.linspace(window[0, 0], window[0, 1], 61)
        for values, total, color, name in (
            (expected[inside, 0], len(expected), colors[0], label),
            (rows[:, 0], len(rows), colors[1], "data"),
        ):
            heights = np.histogram(values, edges)[0] / (total * np.diff(edges))
            ax.stairs(heights, edges, fill=True, alpha=0.45, color=color, label=name)
    else:
        options: dict[str, Any] = {"max_points": max_points, "zorder": 2}
        draw_points(ax, expected[inside], colors=colors[0], alpha=0.35, **options)
        draw_points(ax, rows, colors=colors[1], alpha=0.85, **options)
        for color, name in zip(colors, (label, "data"), strict=True):
            ax.scatter([], [], c=color, label=name, s=20)
        ax.set(ylim=window[1])
    ax.legend(frameon=False)
    ax.set(xlim=window[0])
    view.label(ax, "density")
    return ax


def plot_prior_and_posterior(
    prior: Values,
    posterior: Values,
    *,
    ax: Axes | None = None,
    name: str = "value",
    title: str | None = None,
) -> Axes:
    """Draw the histograms of a quantity under the prior and under the posterior.

    The window holds the posterior and the middle half of the prior: a wide prior reaches further.

    Args:
        prior: Draws `(*S)`.
        posterior: Draws `(*S)`.
        ax: Axes to draw on, and to return; None makes a new figure.
        name: Of the quantity.
        title: Of the axes.

    Raises:
        InvalidArgumentError: No draws, or draws that are not finite.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_prior_and_posterior
        >>> plot_prior_and_posterior(torch.randn(99), torch.randn(99) / 9, name="mean").get_xlabel()
        'mean'
    """
    both = [
        np.asarray(torch.as_tensor(one).detach().cpu(), dtype=np.float64).ravel()
        for one in (prior, posterior)
    ]
    if not all(len(one) and np.isfinite(one).all() for one in both):
        raise InvalidArgumentError("expected finite draws of the prior and of the posterior")
    middle = np.quantile(both[0], [0.25, 0.75])
    low, high = min(both[1].min(), middle[0]), max(both[1].max(), middle[1])
    margin = 0.05 * (high - low) or 1.0
    edges = np.linspace(low - margin, high + margin, 61)
    ax = axes_or_new(ax, title)
    for values, color, label in zip(both, palette(2), ("prior", "posterior"), strict=True):
        counts, _ = np.histogram(values, edges)
        ax.stairs(counts / (len(values) * np.diff(edges)), edges, fill=True, alpha=0.45,
                  color=color, label=label)  # fmt: skip
    ax.legend(frameon=False)
    ax.set(xlabel=name, ylabel="density", xlim=(edges[0], edges[-1]))
    return ax

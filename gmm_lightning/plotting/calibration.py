"""Calibration of forecasts: the distribution of their PIT values beside the uniform one."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gmm_lightning._validation import require_choice, require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.plotting._rows import Array, Values, to_array
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import INK, PAPER_GREY, palette


def plot_calibration(
    pit: Values | None = None,
    *,
    ax: Axes | None = None,
    counts: Values | None = None,
    kind: str = "histogram",
    num_bins: int = 20,
    level: float = 0.95,
    title: str | None = None,
) -> Axes:
    """Draw the values of the probability integral transform, uniform if forecasts are calibrated.

    As a histogram: flat if calibrated, a hump where forecasts are too wide, a trough where they
    are too narrow, a slope where they are biased. As a reliability curve: the share of values
    below each probability against that probability. The band holds each bar, or each point, of
    independent values from calibrated forecasts in `level` of all cases (binomial).

    Args:
        pit: Values of any shape, as from `probability_integral_transform`; NaN is left out.
        ax: Axes to draw on, and to return; None makes a new figure.
        counts: Instead of `pit`: the number of values in each bin, as from `PITHistogram`.
        kind: `histogram` or `reliability`.
        num_bins: Equally wide bins, at least 2.
        level: The mass of the band, above 0 and at most 1.
        title: Of the axes.

    Raises:
        InvalidArgumentError: Both or none of `pit` and `counts`, an unknown kind, or another
            argument that does not fit.
        InvalidDataError: Values outside [0, 1], or negative counts.

    References:
        T. Gneiting, F. Balabdaoui, A. E. Raftery (2007), Probabilistic forecasts, calibration and
        sharpness, JRSS B 69.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_calibration
        >>> ax = plot_calibration(torch.rand(1000), num_bins=10)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('probability integral transform', 'density')
    """
    draw, loc = _KINDS[require_choice("kind", kind, _KINDS)]
    level = require_number("level", level, above=0, most=1)
    held = _counts(pit, counts, num_bins)
    ax = axes_or_new(ax, title)
    label = f"{100 * level:.4g} % band"
    draw(ax, held, level, {"color": PAPER_GREY, "alpha": 0.3, "linewidth": 0, "label": label})
    if held.sum() > 0:
        ax.legend(loc=loc, frameon=False, fontsize="small")
    ax.set_xlim(0.0, 1.0)
    return ax


def _draw_histogram(ax: Axes, held: Array, level: float, band: dict[str, Any]) -> None:
    edges, total, share = np.linspace(0.0, 1.0, len(held) + 1), held.sum(), 1.0 / len(held)
    if total > 0:
        style: dict[str, Any] = {"color": palette(1)[0], "alpha": 0.55, "edgecolor": "white"}
        bars = held / total / share
        ax.bar(edges[:-1], bars, width=share, align="edge", linewidth=0.5, **style)
        low, high = _band(total, np.array([share]), level)
        ax.axhspan(float(low[0] / share), float(high[0] / share), **band)
    ax.axhline(1.0, color=INK, linewidth=1.0, linestyle="--")
    # Room for the legend above the bars.
    ax.set_ylim(0.0, 1.18 * ax.dataLim.ymax)
    ax.set(xlabel="probability integral transform", ylabel="density")


def _draw_reliability(ax: Axes, held: Array, level: float, band: dict[str, Any]) -> None:
    edges, total = np.linspace(0.0, 1.0, len(held) + 1), held.sum()
    if total > 0:
        ax.fill_between(edges, *_band(total, edges, level), **band)
        share = np.concatenate([[0.0], held.cumsum() / total])
        style: dict[str, Any] = {"color": palette(1)[0], "marker": "o", "markersize": 3}
        ax.plot(edges, share, linewidth=1.6, clip_on=False, **style)
    ax.plot([0.0, 1.0], [0.0, 1.0], color=INK, linewidth=1.0, linestyle="--")
    ax.set(xlabel="predicted probability", ylabel="observed share", ylim=(0.0, 1.0))


# The function that draws each kind, and the place where its legend hides nothing.
_KINDS: dict[str, Any] = {
    "histogram": (_draw_histogram, "upper right"),
    "reliability": (_draw_reliability, "lower right"),
}


def _band(total: float, probability: Array, level: float) -> tuple[Array, Array]:
    """The interval of the share of values that fall into a bin of given probability."""
    from scipy.stats import binom  # takes longer to import than to draw

    n = max(round(total), 1)
    ends = binom.interval(level, n, probability)
    # Scipy has no interval at probabilities 0 and 1, and that of mass 1 begins below 0.
    sure = (probability == 0) | (probability == 1)
    low, high = (np.where(sure, probability, np.clip(end / n, 0.0, 1.0)) for end in ends)
    return low, high


def _counts(pit: Values | None, counts: Values | None, num_bins: int) -> Array:
    """The number of values in each bin."""
    num_bins = require_integer("num_bins", num_bins, least=2)
    if (pit is None) == (counts is None):
        raise InvalidArgumentError("expected either the values pit= or counts= of them per bin")
    if counts is not None:
        held = to_array(counts)
        if held.ndim != 1 or len(held) < 2:
            raise InvalidArgumentError(
                f"expected counts of shape (num_bins,) for 2 bins or more, got {held.shape}"
            )
        if not (np.isfinite(held).all() and (held >= 0).all()):
            raise InvalidDataError("expected counts that are finite and >= 0")
        return held
    assert pit is not None
    values = to_array(pit).ravel()
    values = values[~np.isnan(values)]
    if ((values < 0) | (values > 1)).any():
        raise InvalidDataError(
            f"expected PIT values in [0, 1], got some from {values.min():g} to {values.max():g}; "
            "make them with probability_integral_transform(mixture, y)"
        )
    return np.histogram(values, bins=num_bins, range=(0.0, 1.0))[0].astype(np.float64)

"""Whether forecasts are calibrated: the law of their PIT values beside the uniform one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.plotting._rows import to_array
from gmm_lightning.plotting.figures import INK, PAPER_GREY, new_axes
from gmm_lightning.plotting.palette import palette

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

__all__ = ["plot_calibration"]

_KINDS = ("histogram", "reliability")


def plot_calibration(
    pit: torch.Tensor | ArrayLike | None = None,
    *,
    ax: Axes | None = None,
    counts: torch.Tensor | ArrayLike | None = None,
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

    Shape:
        pit of any shape; counts `(num_bins,)`.

    Args:
        pit: The values, as from `probability_integral_transform(mixture, y)`; NaN is left out.
        ax: Axes to draw on; None makes a new figure.
        counts: Instead of `pit`: how many values each bin holds, as from the metric
            `PITHistogram`.
        kind: `histogram` or `reliability`.
        num_bins: Equally wide bins, at least 2.
        level: The mass of the band, above 0 and at most 1.
        title: A title for the axes.

    Returns:
        The axes drawn on.

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
    if kind not in _KINDS:
        raise InvalidArgumentError(f"unknown kind {kind!r}; known are: {', '.join(_KINDS)}")
    level = require_number("level", level, above=0, most=1)
    held = _held(pit, counts, num_bins)
    ax = new_axes() if ax is None else ax
    (_draw_histogram if kind == "histogram" else _draw_reliability)(ax, held, level)
    ax.set_xlim(0.0, 1.0)
    if title is not None:
        ax.set_title(title)
    return ax


def _draw_histogram(ax: Axes, held: NDArray[np.float64], level: float) -> None:
    edges, total = np.linspace(0.0, 1.0, len(held) + 1), held.sum()
    share = 1.0 / len(held)
    if total > 0:
        ax.bar(
            edges[:-1],
            held / total / share,
            width=share,
            align="edge",
            color=palette(1)[0],
            alpha=0.55,
            edgecolor="white",
            linewidth=0.5,
        )
        low, high = _band(total, np.array([share]), level)
        ax.axhspan(
            float(low[0] / share),
            float(high[0] / share),
            color=PAPER_GREY,
            alpha=0.3,
            linewidth=0,
            label=_name(level),
        )
    ax.axhline(1.0, color=INK, linewidth=1.0, linestyle="--")
    # Room for the legend above the bars.
    ax.set_ylim(0.0, 1.18 * ax.dataLim.ymax)
    ax.set_xlabel("probability integral transform")
    ax.set_ylabel("density")
    _legend(ax, "upper right")


def _draw_reliability(ax: Axes, held: NDArray[np.float64], level: float) -> None:
    edges, total = np.linspace(0.0, 1.0, len(held) + 1), held.sum()
    if total > 0:
        low, high = _band(total, edges, level)
        ax.fill_between(
            edges, low, high, color=PAPER_GREY, alpha=0.3, linewidth=0, label=_name(level)
        )
        share = np.concatenate([[0.0], held.cumsum() / total])
        ax.plot(
            edges,
            share,
            color=palette(1)[0],
            linewidth=1.6,
            marker="o",
            markersize=3,
            clip_on=False,
        )
    ax.plot([0.0, 1.0], [0.0, 1.0], color=INK, linewidth=1.0, linestyle="--")
    ax.set_ylim(0.0, 1.0)
    ax.set_xlabel("predicted probability")
    ax.set_ylabel("observed share")
    _legend(ax, "lower right")


def _legend(ax: Axes, loc: Any) -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc=loc, frameon=False, fontsize="small")


def _name(level: float) -> str:
    return f"{100 * level:.4g} % band"


def _band(
    total: float, probability: NDArray[np.float64], level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the share of so many values that fall into a bin of given probability lies."""
    from scipy.stats import binom  # takes longer to import than to draw

    n = max(round(total), 1)
    ends = binom.interval(level, n, probability)
    # What is certain has no interval in scipy, and all of the mass begins below 0.
    sure = (probability == 0) | (probability == 1)
    low, high = (np.where(sure, probability, np.clip(end / n, 0.0, 1.0)) for end in ends)
    return low, high


def _held(
    pit: torch.Tensor | ArrayLike | None,
    counts: torch.Tensor | ArrayLike | None,
    num_bins: int,
) -> NDArray[np.float64]:
    """How many values each bin holds."""
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

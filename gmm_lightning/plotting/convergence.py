"""The objective of a fit against its iterations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._rows import Array, Values, to_array
from gmm_lightning.plotting.figures import axes_or_new
from gmm_lightning.plotting.palette import palette


def plot_convergence(
    history: Values | Sequence[Values],
    *,
    ax: Axes | None = None,
    ylabel: str = "objective (nats per row)",
) -> Axes:
    """Draw the value of the objective after each iteration, and write the last one beside its dot.

    Args:
        history: Values `(T,)` in order of iteration, or `(T, R)` for R restarts or mixtures fitted
            together, a line for each; those that are not finite leave a gap.
        ax: Axes to draw on, and to return; None makes a new figure.
        ylabel: Name of the values.

    Raises:
        InvalidArgumentError: `history` has more than two dimensions, or none.

    Example:
        >>> from gmm_lightning.plotting import plot_convergence
        >>> ax = plot_convergence([-4.80, -4.31, -4.17, -4.16])
        >>> ax.get_xlabel(), ax.lines[0].get_xdata().tolist()
        ('iteration', [1, 2, 3, 4])
    """
    values = _values(history)
    ax = axes_or_new(ax)
    num_iterations, num_lines = values.shape
    iterations = np.arange(1, num_iterations + 1)
    single = num_lines == 1
    for column, color in zip(values.T, palette(num_lines), strict=True):
        ax.plot(iterations, column, color=color, linewidth=1.6 if single else 1.0)
        finite = np.flatnonzero(np.isfinite(column))
        if len(finite) == 0:
            continue
        end = (float(iterations[finite[-1]]), float(column[finite[-1]]))
        ax.plot(*end, "o", color=color, markersize=5 if single else 3)
        if single:
            # Below the dot: a fit rises to its last value from the left, so that space is free.
            style: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": "small"}
            offset: dict[str, Any] = {"xytext": (0, -8), "textcoords": "offset points"}
            ax.annotate(f"{end[1]:.6g}", end, **offset, **style)
    ax.set(xlabel="iteration", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    # An offset in the corner ("+4.15e0") hides the number that people compare.
    ax.ticklabel_format(axis="y", useOffset=False)
    return ax


def _values(history: Any) -> Array:
    # A list may hold a tensor for each iteration, on any device.
    listed = isinstance(history, list | tuple)
    values = to_array(np.array([to_array(v) for v in history]) if listed else history)
    if values.ndim not in (1, 2):
        raise InvalidArgumentError(
            f"expected a history of shape (T,) or (T, R), got {values.shape}; flatten the batch"
        )
    return values.reshape(len(values), -1) if values.size else np.empty((0, 1))

"""tgmm's picture of a mixture of two features, with its options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._messages import describe
from gmm_lightning.distributions import MixtureDensity, as_mixture
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm.matching import match_predicted_to_true_labels
from gmm_lightning.estimators.tgmm.parameters import Parameters
from gmm_lightning.plotting import axes_or_new, palette, plot_error_ellipses
from gmm_lightning.rows import as_tensor

_INK = "#333333"


@dataclass(kw_only=True)
class PlotOptions:
    """Options of `plot_gmm`, with tgmm's names and defaults; `auto` colours are of the palette."""

    show_points: bool = True
    point_size: float = 5
    point_alpha: float = 0.5
    point_color: Any = "auto"
    color_by_cluster: bool = False
    true_labels: Any = None
    match_labels_to_true: bool = False
    cluster_colors: Any = None
    show_incorrect_predictions: bool = False
    incorrect_color: Any = "#D03B3B"
    log_probs: Any = None
    colormap: Any = "viridis"
    colorbar_label: str = "Log Probability"
    show_ellipses: bool = True
    ellipse_std_devs: Sequence[float] = (1, 2, 3)
    ellipse_alpha: float = 0.5
    ellipse_colors: Any = "auto"
    ellipse_fill: bool = True
    ellipse_line_style: str = "dotted"
    ellipse_line_width: float = 2
    ellipse_line_color: Any = _INK
    ellipse_line_alpha: float = 0.5
    show_means: bool = True
    mean_marker: str = "h"
    mean_size: float = 25
    mean_color: Any = "black"
    show_initial_means: bool = False
    initial_mean_marker: str = "H"
    initial_mean_size: float = 25
    initial_mean_color: Any = "red"
    scale_alpha_by_weight: bool = False
    scale_size_by_weight: bool = False
    ax: Any = None
    title: str | None = "GMM Visualization"
    xlabel: str = "Feature 1"
    ylabel: str = "Feature 2"
    legend: bool = True
    legend_labels: Sequence[str] | None = None

    def shades(self, number: int) -> list[Any]:
        """Colours of so many clusters, repeated if there are fewer."""
        given = self.cluster_colors
        if given is None or (isinstance(given, str) and given == "auto"):
            return list(palette(number))
        given = [given] if isinstance(given, str) else list(given)
        return [given[i % len(given)] for i in range(number)]


def plot_gmm(X: Any, gmm: Any = None, **options: Any) -> Any:
    """Draw rows of two features, and the components of a mixture over them.

    Without `ax` it draws on the current axes if pyplot is in use, else on a new figure.

    Args:
        X: rows `(N, 2)`.
        gmm: a mixture of this package, a layer, or any other mixture; None: rows alone.
        options: of `PlotOptions`.

    Returns:
        The axes.

    Raises:
        InvalidArgumentError: not two features, or options that do not fit.
        TypeError: an unknown option.

    Example:
        >>> ax = plot_gmm(np.zeros((3, 2)), title="three rows")
        >>> ax.get_title()
        'three rows'
    """
    style = PlotOptions(**options)
    x = as_tensor(X.detach().cpu() if hasattr(X, "detach") else X, "X").numpy()
    if x.ndim != 2 or x.shape[1] != 2:
        raise InvalidArgumentError(f"plot_gmm draws two features, got shape {tuple(x.shape)}")
    mixture = None
    if gmm is not None:
        mixture = gmm.mixture if isinstance(gmm, Parameters) else as_mixture(gmm)
    ax = axes_or_new(style.ax or _current_axes(), style.title)
    if style.show_points:
        _draw_points(ax, x, gmm, style)
    if mixture is not None:
        _draw_components(ax, mixture, style)
        starts = getattr(gmm, "initial_means_", None)
        if style.show_initial_means and starts is not None:
            means = starts.cpu()
            marks = {"marker": style.initial_mean_marker, "c": style.initial_mean_color}
            ax.scatter(*means.T, s=style.initial_mean_size, label="initial means", **marks)
    ax.set(xlabel=style.xlabel, ylabel=style.ylabel)
    if style.legend and ax.get_legend_handles_labels()[0]:
        ax.legend()
    return ax


_OWN = list(inspect.signature(plot_gmm).parameters.values())[:2]
_OPTIONS = list(inspect.signature(PlotOptions).parameters.values())
vars(plot_gmm)["__signature__"] = inspect.Signature([*_OWN, *_OPTIONS])


def _current_axes() -> Any:
    """The axes that pyplot draws on, where somebody has imported it."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    return None if pyplot is None or not pyplot.get_fignums() else pyplot.gca()


def _draw_points(ax: Any, x: NDArray[Any], gmm: Any, style: PlotOptions) -> None:
    dots: dict[str, Any] = {"s": style.point_size, "alpha": style.point_alpha, "linewidths": 0}
    if style.log_probs is not None:
        values = as_tensor(style.log_probs, "log_probs").cpu().numpy().reshape(-1)
        drawn = ax.scatter(*x.T, c=values, cmap=style.colormap, **dots)
        ax.figure.colorbar(drawn, ax=ax, label=style.colorbar_label)
        return
    labels, wrong = _labels_of(x, gmm, style)
    if labels is None:
        color = _INK if isinstance(style.point_color, str) and style.point_color == "auto" else None
        ax.scatter(*x.T, c=style.point_color if color is None else color, **dots)
        return
    found = np.unique(labels)
    names = style.legend_labels or [f"cluster {label}" for label in found]
    for label, color, name in zip(found, style.shades(len(found)), names, strict=False):
        own = x[(labels == label) & ~wrong]
        ax.scatter(*own.T, c=[color], label=name, **dots)
    if wrong.any():
        ax.scatter(*x[wrong].T, c=[style.incorrect_color], label="incorrect", **dots)


def _labels_of(
    x: NDArray[Any], gmm: Any, style: PlotOptions
) -> tuple[NDArray[Any] | None, NDArray[np.bool_]]:
    """Labels by which rows are coloured, or None, and which of them are wrong."""
    wrong = np.zeros(len(x), dtype=bool)
    true = None
    if style.true_labels is not None:
        true = as_tensor(style.true_labels, "true_labels").cpu().numpy().reshape(-1)
        if len(true) != len(x):
            raise InvalidArgumentError(
                f"true_labels must be one for each of {len(x)} rows, got {describe(true)}"
            )
    if gmm is None or not (style.color_by_cluster or style.show_incorrect_predictions):
        return true, wrong
    found = gmm.predict(x).cpu()
    if true is not None and (style.match_labels_to_true or style.show_incorrect_predictions):
        found = match_predicted_to_true_labels(true, found)
    if true is not None and style.show_incorrect_predictions:
        wrong = found.numpy() != true
    return found.numpy() if style.color_by_cluster or true is None else true, wrong


def _draw_components(ax: Any, mixture: MixtureDensity, style: PlotOptions) -> None:
    share = mixture.weights / mixture.weights.amax()
    k = mixture.num_components
    colors = style.ellipse_colors
    colors = style.shades(k) if isinstance(colors, str) and colors == "auto" else colors
    if style.show_ellipses:
        before = len(ax.patches)
        radii = list(style.ellipse_std_devs)
        plot_error_ellipses(
            mixture, ax=ax, stds=radii, colors=colors, alpha=style.ellipse_alpha, means=False
        )
        for i, patch in enumerate(ax.patches[before:]):
            _restyle(patch, float(share[i // len(radii) % k]), style)
    if style.show_means:
        size = style.mean_size * (share if style.scale_size_by_weight else share.new_ones(k)).cpu()
        marks = {"marker": style.mean_marker, "c": style.mean_color, "zorder": 5}
        ax.scatter(*mixture.means.cpu().T, s=size, label="means", **marks)


def _restyle(patch: Any, share: float, style: PlotOptions) -> None:
    """Give an ellipse tgmm's outline, and its fill."""
    red, green, blue, alpha = patch.get_facecolor()
    strength = share if style.scale_alpha_by_weight else 1.0
    patch.set_facecolor((red, green, blue, alpha * strength) if style.ellipse_fill else "none")
    patch.set_edgecolor((style.ellipse_line_color, style.ellipse_line_alpha * strength))
    patch.set_linestyle(style.ellipse_line_style)
    patch.set_linewidth(style.ellipse_line_width)

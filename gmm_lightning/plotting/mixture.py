"""A mixture of Gaussians as a picture: curves in 1-D, ellipses in 2-D, a projection beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting._geometry import components, ellipse, principal_plane, rows_and_labels
from gmm_lightning.plotting.figures import INK, PAPER_GREY, new_axes
from gmm_lightning.plotting.palette import palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    from gmm_lightning.plotting._geometry import Components, MixtureLike

__all__ = ["plot_mixture"]

_MOST_LEGEND_ENTRIES = 12
_MOST_NUMBERS = 30


def plot_mixture(
    mixture: MixtureLike,
    x: torch.Tensor | ArrayLike | None = None,
    *,
    ax: Axes | None = None,
    labels: torch.Tensor | ArrayLike | None = None,
    stds: Sequence[float] = (1.0, 2.0),
    columns: Sequence[str] | None = None,
    max_points: int = 5000,
    title: str | None = None,
) -> Axes:
    """Draw a mixture, and the data it describes.

    - One feature: the density `sum_k w_k N(x | mu_k, sigma_k^2)`, each weighted term of it, and a
      histogram of `x`.
    - Two features: the points `x` and, for each component, its mean and the ellipses
      `(x - mu_k)' Sigma_k^-1 (x - mu_k) = s^2` for `s` in `stds`; heavier components are more
      opaque.
    - More: the same after projecting both on the two axes of largest variance of the mixture
      itself, whose shares of the variance stand in the axis labels.

    Without `labels` the colours tell components apart; with them, the colours belong to the labels
    and the components are drawn in dark grey. Components with parameters that are not finite are
    left out, and so are rows that are not finite.

    Shape:
        x `(*S, D)`; labels one entry per row of x; columns D names.

    Args:
        mixture: A `MixtureOfGaussians` with batch shape (), or anything with its `weights` (K,),
            `means` (K, D) and `scale_tril` (K, D, D). Any device and dtype.
        x: Rows to show under the mixture.
        ax: Axes to draw on; None makes a new figure.
        labels: A class for each row, numbers or names; up to twelve classes get a legend.
        stds: Radii of the ellipses in standard deviations.
        columns: Names of the features; with more than two features the axes are not features, and
            the names are not used.
        max_points: At most this many points are drawn, evenly spaced through the rows.
        title: A title for the axes.

    Returns:
        The axes drawn on.

    Raises:
        InvalidArgumentError: The mixture is a batch, or `x`, `labels`, `columns`, `stds` or
            `max_points` do not fit it.

    Example:
        >>> import torch
        >>> from gmm_lightning.plotting import plot_mixture
        >>> class TwoBlobs:
        ...     weights = torch.tensor([0.3, 0.7])
        ...     means = torch.tensor([[0.0, 0.0], [4.0, 1.0]])
        ...     scale_tril = torch.eye(2).expand(2, 2, 2)
        >>> ax = plot_mixture(TwoBlobs(), columns=("length", "width"))
        >>> len(ax.patches), ax.get_xlabel()
        (4, 'length')
    """
    parts = components(mixture)
    num_features = parts.means.shape[-1]
    num_components = mixture.weights.shape[-1]
    _check(num_features, stds, columns, max_points)
    points, classes = rows_and_labels(x, labels, num_features)
    colors = palette(num_components) if classes is None else (INK,) * num_components
    ax = new_axes() if ax is None else ax
    names = columns or [f"feature {i}" for i in range(num_features)]
    if num_features == 1:
        _draw_curves(ax, parts, points, classes, colors)
        names = [names[0], "density"]
    else:
        if num_features > 2:
            origin, axes, share = principal_plane(mixture)
            parts, points = parts.project(origin, axes), (points - origin) @ axes
            names = [
                f"principal axis {i + 1} ({100 * share[i]:.3g}% of variance)" for i in range(2)
            ]
        _draw_points(ax, points, classes, max_points)
        _draw_ellipses(ax, parts, stds, colors)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    if title is not None:
        ax.set_title(title)
    if classes is not None:
        _add_legend(ax, classes)
    return ax


def _check(
    num_features: int, stds: Sequence[float], columns: Sequence[str] | None, max_points: int
) -> None:
    if columns is not None and len(columns) != num_features:
        raise InvalidArgumentError(
            f"expected {num_features} column names, got {len(columns)}; give one for each feature"
        )
    if not all(np.isfinite(std) and std > 0 for std in stds):
        raise InvalidArgumentError(f"expected positive numbers in stds, got {tuple(stds)}")
    if max_points < 0:
        raise InvalidArgumentError(f"expected max_points >= 0, got {max_points}")


def _draw_points(
    ax: Axes, points: NDArray[np.float64], classes: NDArray[Any] | None, max_points: int
) -> None:
    keep = np.linspace(0, len(points) - 1, min(len(points), max_points)).round().astype(np.intp)
    if len(keep) == 0:
        return
    color: Any = PAPER_GREY
    if classes is not None:
        # Sorted classes would paint over one another in order; a fixed shuffle treats them alike.
        keep = np.random.default_rng(0).permutation(keep)
        found, codes = np.unique(classes, return_inverse=True)
        color = np.array(palette(len(found)))[codes[keep]]
    # Many points need small, faint dots for their density to show; few need to be seen at all.
    crowd = min(1.0, len(keep) / 3000)
    ax.scatter(
        points[keep, 0],
        points[keep, 1],
        s=14 - 8 * crowd,
        c=color,
        alpha=0.7 - 0.2 * crowd,
        linewidths=0,
        zorder=1,
        rasterized=len(keep) > 1000,
    )


def _draw_ellipses(
    ax: Axes, parts: Components, stds: Sequence[float], colors: Sequence[str]
) -> None:
    emphasis = parts.weights / max(parts.weights.max(initial=0.0), np.finfo(np.float64).tiny)
    # Fills of many overlapping components add up to mud, so they share what opacity there is.
    fill = 0.3 / max(1.0, len(emphasis) / 4) / max(1, len(stds))
    # Beyond a handful of components the outer outlines are what makes a picture unreadable.
    faint, inner = min(0.8, 4.0 / max(1, len(emphasis))), min(stds, default=0.0)
    shades = [colors[int(k)] for k in parts.index]
    for j, color in enumerate(shades):
        for std in sorted(stds, reverse=True):
            width, height, angle = ellipse(parts.covariances[j], std)
            center = (float(parts.means[j, 0]), float(parts.means[j, 1]))
            patch = Ellipse(center, width, height, angle=angle, linewidth=1.2, zorder=2)
            patch.set_facecolor((color, fill * float(emphasis[j])))
            outline = (0.25 + 0.7 * float(emphasis[j])) * (1.0 if std == inner else faint)
            patch.set_edgecolor((color, outline))
            ax.add_patch(patch)
    if shades:
        ax.scatter(
            parts.means[:, 0],
            parts.means[:, 1],
            s=40,
            c=shades,
            edgecolors="white",
            linewidths=1.2,
            zorder=3,
        )
    if len(shades) <= _MOST_NUMBERS:
        for k, mean in zip(parts.index, parts.means, strict=True):
            # The number under which a component appears in every table.
            ax.annotate(
                str(int(k)),
                (float(mean[0]), float(mean[1])),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                zorder=4,
            )
    ax.autoscale_view()


def _draw_curves(
    ax: Axes,
    parts: Components,
    points: NDArray[np.float64],
    classes: NDArray[Any] | None,
    colors: Sequence[str],
) -> None:
    values = points[:, 0]
    if len(values) > 0:
        groups, shades = [values], [PAPER_GREY]
        if classes is not None:
            found = np.unique(classes)
            groups, shades = [values[classes == c] for c in found], list(palette(len(found)))
        bins = np.histogram_bin_edges(values, bins=min(60, max(10, round(2 * len(values) ** 0.4))))
        ax.hist(groups, bins=list(bins), density=True, stacked=True, color=shades, alpha=0.35)
    means, stds = parts.means[:, 0], np.sqrt(parts.covariances[:, 0, 0])
    if len(means) == 0:
        return
    ends = np.concatenate([values, means - 3.5 * stds, means + 3.5 * stds])
    # A narrow component falls between the points of any even grid, so each brings points its own.
    own = (means[:, None] + stds[:, None] * np.linspace(-4.0, 4.0, 81)).ravel()
    grid = np.unique(np.concatenate([np.linspace(ends.min(), ends.max(), 512), own]))
    grid = grid[(grid >= ends.min()) & (grid <= ends.max())]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = (grid - means[:, None]) / stds[:, None]
        terms = parts.weights[:, None] * np.exp(-0.5 * z * z) / (stds[:, None] * np.sqrt(2 * np.pi))
    terms = np.nan_to_num(terms, nan=0.0, posinf=0.0)  # a point mass has no density to draw
    for j, k in enumerate(map(int, parts.index)):
        if classes is None:
            ax.fill_between(grid, terms[j], color=colors[k], alpha=0.12, linewidth=0, zorder=2)
        ax.plot(grid, terms[j], color=colors[k], linewidth=1.3, linestyle="--", zorder=2)
    ax.plot(grid, terms.sum(axis=0), color=INK, linewidth=1.8, zorder=3)
    ax.set_ylim(bottom=0.0)


def _add_legend(ax: Axes, classes: NDArray[Any]) -> None:
    found = np.unique(classes)
    # Nobody matches twenty colours to a list of twenty names.
    if len(found) > _MOST_LEGEND_ENTRIES:
        return
    handles = [
        Line2D([], [], marker="o", linestyle="none", color=color, label=str(name))
        for name, color in zip(found, palette(len(found)), strict=True)
    ]
    # Beside the axes, where it can hide no data.
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)

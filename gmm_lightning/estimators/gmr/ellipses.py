"""Plots of components as stacks of translucent ellipses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.gmr._translate import mixture_of, require_given

_FACTORS = tuple(np.linspace(0.25, 2.0, 8).tolist())


def plot_error_ellipse(
    ax: Any,
    mvn: Any,
    color: str | None = None,
    alpha: float = 0.25,
    factors: Iterable[float] = _FACTORS,
) -> None:
    """Draw a Gaussian of two features, an `MVN`: see `plot_error_ellipses`."""
    require_given(mean=mvn.mean, covariance=mvn.covariance)
    means, covariances = np.asarray(mvn.mean)[None], np.asarray(mvn.covariance)[None]
    single = SimpleNamespace(priors=[1.0], means=means, covariances=covariances)
    plot_error_ellipses(ax, single, None if color is None else [color], alpha, factors)


def plot_error_ellipses(
    ax: Any,
    gmm: Any,
    colors: Sequence[str] | None = None,
    alpha: float = 0.25,
    factors: Iterable[float] = _FACTORS,
) -> None:
    """Draw a mixture of two features by `gmm_lightning.plotting.plot_error_ellipses`.

    A component has the same colour at each factor (gmr: only if there are as many colours as
    components).

    Args:
        ax: matplotlib's axes to draw on; their labels stay.
        gmm: the mixture, a `GMM`.
        colors: of the components in turn; None: those of the palette.
        alpha: opacity of one ellipse; they add up towards the means.
        factors: numbers of standard deviations.
    """
    require_given(priors=gmm.priors, means=gmm.means, covariances=gmm.covariances)
    mixture = mixture_of(gmm.priors, gmm.means, gmm.covariances, definite=False)
    # Matplotlib takes a while to import, and nothing else here needs it.
    from gmm_lightning.plotting import axes_or_new, plot_error_ellipses

    if ax is None:
        raise InvalidArgumentError("expected matplotlib axes to draw on, got None")
    ax = axes_or_new(ax)
    names = [ax.get_xlabel(), ax.get_ylabel()]
    stds = list(factors) if isinstance(factors, Iterable) else [factors]
    plot_error_ellipses(mixture, ax=ax, stds=stds, colors=colors, alpha=alpha, columns=names)

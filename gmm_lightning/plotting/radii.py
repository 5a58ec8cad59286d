"""Radii of ellipses: standard deviations, or the masses that they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import chi_quantile
from gmm_lightning.errors import InvalidArgumentError


def confidence_ellipse_std_devs(
    confidence_levels: float | Sequence[float], df: int = 2
) -> list[float]:
    """The Mahalanobis radii inside which a Gaussian of `df` features has the given masses.

    `r^2` is the quantile of the chi-square distribution: two standard deviations hold 95 %
    of the mass on a line, but 86 % in the plane.

    Args:
        confidence_levels: Masses in (0, 1), or one of them.
        df: Number of features, 2 for an ellipse.

    Raises:
        InvalidArgumentError: A mass outside (0, 1), or `df` below 1.

    Example:
        >>> from gmm_lightning.plotting import confidence_ellipse_std_devs
        >>> [round(radius, 4) for radius in confidence_ellipse_std_devs([0.5, 0.95])]
        [1.1774, 2.4477]
    """
    masses = _numbers("confidence levels", confidence_levels)
    if not all(0.0 < mass < 1.0 for mass in masses):
        raise InvalidArgumentError(
            f"expected masses strictly between 0 and 1, got {tuple(masses)}; write 0.9 for 90 %"
        )
    return chi_quantile(masses, require_integer("df", df, least=1)).tolist()


def radii_and_names(
    stds: float | Sequence[float], masses: float | Sequence[float] | None, df: int = 2
) -> tuple[list[float], list[str]]:
    """Radii in standard deviations, from `masses` where they are given, and their labels.

    Raises:
        InvalidArgumentError: A standard deviation that is not positive, or a mass outside (0, 1).
    """
    if masses is not None:
        return (
            confidence_ellipse_std_devs(masses, df),
            [f"{100 * mass:.4g}%" for mass in _numbers("masses", masses)],
        )
    radii = _numbers("stds", stds)
    if not all(np.isfinite(radius) and radius > 0 for radius in radii):
        raise InvalidArgumentError(f"expected positive numbers in stds, got {tuple(radii)}")
    return radii, [f"{radius:.3g}\N{GREEK SMALL LETTER SIGMA}" for radius in radii]


def _numbers(name: str, values: float | Sequence[float]) -> list[float]:
    try:
        return [float(value) for value in np.ravel(np.asarray(values, dtype=np.float64))]
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"expected numbers in {name}, got {values!r}") from None

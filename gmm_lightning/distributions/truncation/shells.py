"""Regions of Mahalanobis radii about the component that a row is drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincc, gammainccinv, gammaincinv

from gmm_lightning._messages import describe
from gmm_lightning._validation import is_number, require_integer
from gmm_lightning.errors import InvalidArgumentError


class MahalanobisRegion(ABC):
    """A range of Mahalanobis radii about the component that a row is drawn from."""

    def check(self, num_features: int) -> None:  # noqa: B027 (nothing to check)
        """Raise unless rows of this width can lie in the region; by default all can."""

    @abstractmethod
    def radii(self, num_features: int) -> tuple[float, float]:
        """Least and largest radius."""

    def reach(self, num_features: int, outside: float = 0.01) -> float:
        """The largest radius, or, where it is infinite, one that leaves a share of rows outside."""
        low, high = self.radii(num_features)
        return high if math.isfinite(high) else _chi_tail_quantile(low, outside, num_features)


@dataclass(frozen=True)
class Shell(MahalanobisRegion):
    """Mahalanobis radii `low <= |L_k^-1 (x - mu_k)| <= high`, with k the drawn component.

    Every component has the same mass in its shell, so their shares stay `pi_k`.

    Args:
        low: least radius, in standard deviations, >= 0.
        high: largest radius, above `low`; may be infinite.

    Raises:
        InvalidArgumentError: a negative radius, or an empty range.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 3), torch.eye(3)[None])
        >>> x = mixture.sample(4, within=Shell(40.0, 41.0))
        >>> bool(((x.norm(dim=-1) > 40) & (x.norm(dim=-1) < 41)).all())
        True
    """

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        _check_range("the radii of a shell", self.low, self.high, math.inf)

    def radii(self, num_features: int) -> tuple[float, float]:
        return float(self.low), float(self.high)


@dataclass(frozen=True)
class Confidence(MahalanobisRegion):
    """The shell between two quantiles of the radius: `low <= F(r^2) <= high`.

    F is the chi-square distribution function with D degrees of freedom: `Confidence(0, 0.9)`
    holds nine tenths of every component, `Confidence(0.9, 1)` the last tenth.

    Args:
        low: least probability, in [0, 1].
        high: largest probability, above `low`, in [0, 1].

    Raises:
        InvalidArgumentError: a probability out of range, or an empty range.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> x = mixture.sample(1000, within=Confidence(0.95, 1.0))
        >>> bool((x.norm(dim=-1) > 2.447).all())
        True
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _check_range("the probabilities of a confidence range", self.low, self.high, 1.0)

    def radii(self, num_features: int) -> tuple[float, float]:
        low, high = chi_quantile([float(self.low), float(self.high)], num_features).tolist()
        return low, high


def _check_range(name: str, low: Any, high: Any, largest: float) -> None:
    """Raise unless `0 <= low < high <= largest`."""
    if not (is_number(low) and is_number(high) and 0 <= low <= largest and 0 <= high <= largest):
        upper = "0" if math.isinf(largest) else f"0 and at most {largest:g}"
        raise InvalidArgumentError(
            f"{name} must be numbers of at least {upper}, got {describe(low)} and {describe(high)}"
        )
    if not low < high:
        raise InvalidArgumentError(
            f"{name} must leave something between them, low < high, got "
            f"{describe(low)} and {describe(high)}"
        )


def chi_quantile(mass: ArrayLike, num_features: int) -> NDArray[np.float64]:
    """The Mahalanobis radii inside which a Gaussian of D features has masses in [0, 1].

    `r^2` is the quantile of the chi-square distribution with D degrees of freedom.

    Raises:
        InvalidArgumentError: masses that are not numbers, or fewer than one feature.

    Example:
        >>> chi_quantile([0.5, 0.95], 2).round(4)
        array([1.1774, 2.4477])
    """
    half = 0.5 * require_integer("num_features", num_features, least=1)
    try:
        p = np.asarray(mass, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"expected masses as numbers, got {describe(mass)}") from None
    # From the nearer end: 1 - p is exact for p >= 1 / 2.
    square = np.where(p < 0.5, gammaincinv(half, p), gammainccinv(half, 1 - p))
    return np.sqrt(2 * square)


def _chi_tail_quantile(radius: float, share: float, num_features: int) -> float:
    """The radius outside which a share of the mass outside another radius lies."""
    half = 0.5 * num_features
    left = share * float(gammaincc(half, 0.5 * radius**2))
    if left > np.finfo(np.float64).tiny:
        return math.sqrt(2 * float(gammainccinv(half, left)))
    # Where the mass underflows, the density falls like exp(-r^2 / 2).
    return math.sqrt(radius**2 - 2 * math.log(share))

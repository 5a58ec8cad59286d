"""Regions of Mahalanobis radii about the component that a row is drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmm_lightning.distributions._chi import radius_of_mass
from gmm_lightning.distributions.truncation.region import Radial, check_range


@dataclass(frozen=True)
class Shell(Radial):
    """Mahalanobis radii between two: `low <= |L_k^-1 (x - mu_k)| <= high`, k the drawn component.

    Every component has the same mass in its shell, so their shares stay `pi_k`.

    Args:
        low: least radius, in standard deviations, >= 0.
        high: largest radius, above `low`; may be infinite.

    Raises:
        InvalidArgumentError: a negative radius, or an empty range.

    Example:
        >>> from gmm_lightning.distributions import MixtureOfGaussians
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 3), torch.eye(3)[None])
        >>> x = mixture.sample(4, within=Shell(40.0, 41.0))
        >>> bool(((x.norm(dim=-1) > 40) & (x.norm(dim=-1) < 41)).all())
        True
    """

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        check_range("the radii of a shell", self.low, self.high, math.inf)

    def radii(self, num_features: int) -> tuple[float, float]:
        """See `Radial.radii`."""
        return float(self.low), float(self.high)


@dataclass(frozen=True)
class Confidence(Radial):
    """The shell between two quantiles of the radius: `low <= F(r^2) <= high`.

    F is the chi-square distribution function with D degrees of freedom: `Confidence(0, 0.9)`
    holds nine tenths of every component, `Confidence(0.9, 1)` the last tenth.

    Args:
        low: least probability, in [0, 1].
        high: largest probability, above `low`, in [0, 1].

    Raises:
        InvalidArgumentError: a probability out of range, or an empty range.

    Example:
        >>> from gmm_lightning.distributions import MixtureOfGaussians
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> x = mixture.sample(1000, within=Confidence(0.95, 1.0))
        >>> bool((x.norm(dim=-1) > 2.447).all())
        True
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_range("the probabilities of a confidence range", self.low, self.high, 1.0)

    def radii(self, num_features: int) -> tuple[float, float]:
        """See `Radial.radii`."""
        low, high = radius_of_mass([float(self.low), float(self.high)], num_features).tolist()
        return low, high

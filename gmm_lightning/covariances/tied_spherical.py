"""One ball shared by all components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gmm_lightning.covariances._isotropic import Isotropic


@dataclass(frozen=True)
class TiedSphericalCovariance(Isotropic):
    """`Sigma_k = s^2 I`; the scale holds the standard deviation, `(*B, 1)`.

    Example:
        >>> TiedSphericalCovariance().num_free_parameters(num_components=3, num_features=2)
        1
    """

    name: ClassVar[str] = "tied_spherical"
    tied: ClassVar[bool] = True

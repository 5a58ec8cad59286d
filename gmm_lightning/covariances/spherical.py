"""A ball per component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gmm_lightning.covariances._isotropic import Isotropic


@dataclass(frozen=True)
class SphericalCovariance(Isotropic):
    """`Sigma_k = s_k^2 I`; the scale holds the standard deviations, `(*B, K)`.

    Example:
        >>> SphericalCovariance().num_free_parameters(num_components=3, num_features=2)
        3
    """

    name: ClassVar[str] = "spherical"

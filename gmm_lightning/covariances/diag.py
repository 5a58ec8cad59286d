"""An axis-aligned ellipsoid per component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gmm_lightning.covariances._diagonal import Diagonal


@dataclass(frozen=True)
class DiagCovariance(Diagonal):
    """`Sigma_k = diag(s_k^2)`; the scale holds the standard deviations, `(*B, K, D)`.

    Example:
        >>> DiagCovariance().num_free_parameters(num_components=3, num_features=2)
        6
    """

    name: ClassVar[str] = "diag"

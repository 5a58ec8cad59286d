"""One axis-aligned ellipsoid shared by all components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gmm_lightning.covariances._diagonal import Diagonal


@dataclass(frozen=True)
class TiedDiagCovariance(Diagonal):
    """`Sigma_k = diag(s^2)`; the scale holds the standard deviations, `(*B, 1, D)`.

    Example:
        >>> TiedDiagCovariance().num_free_parameters(num_components=3, num_features=2)
        2
    """

    name: ClassVar[str] = "tied_diag"
    tied: ClassVar[bool] = True

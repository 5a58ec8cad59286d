"""One free ellipsoid shared by all components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gmm_lightning.covariances._dense import Dense


@dataclass(frozen=True)
class TiedCovariance(Dense):
    """`Sigma_k = L L'`; the scale holds the lower Cholesky factor, `(*B, 1, D, D)`.

    Example:
        >>> TiedCovariance().num_free_parameters(num_components=3, num_features=2)
        3
    """

    name: ClassVar[str] = "tied"
    aliases: ClassVar[tuple[str, ...]] = ("tied_full",)
    tied: ClassVar[bool] = True

"""A free ellipsoid per component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gmm_lightning.covariances._dense import Dense


@dataclass(frozen=True)
class FullCovariance(Dense):
    """`Sigma_k = L_k L_k'`; the scale holds the lower Cholesky factors, `(*B, K, D, D)`.

    Example:
        >>> FullCovariance().num_free_parameters(num_components=3, num_features=2)
        9
    """

    name: ClassVar[str] = "full"

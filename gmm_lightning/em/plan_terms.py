"""What a plan of an E-step holds: how each component is computed, and with which numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning.covariances import Features, StandardizedCoordinates


@dataclass(frozen=True)
class ProductTerms:
    """Coefficients that give log joint densities by one product with a row's features.

    Attributes:
        features: the terms of the family.
        coordinates: of the features, in float64.
        natural: coefficients of `(1, q(z), z)`, `(P, C, 1 + Q + D)`, in the dtype to compute in.
            P is 1 where all mixtures read the same rows, else M.
        index: which of the `M K` components these are, `(C,)`; None: all.
    """

    features: Features
    coordinates: StandardizedCoordinates
    natural: Tensor
    index: Tensor | None = None


@dataclass(frozen=True)
class WhitenedTerms:
    """Components by whitened rows `L^-1 (x - mu)`, all tensors in the dtype to compute in.

    Attributes:
        index: which of the `M K` components these are, `(C,)`.
        scale: in the family's form, `(C, ...)`.
        constant: of the log joint densities, `(C,)`.
        whitening: inverse Cholesky factors `(C, D, D)`; None: the family whitens without a solve.
        centre: a point `(D,)` from which all of them take differences; None: each takes them
            from its mean, for components that are tight and far away.
        offset: `-L^-1 (mu - centre)`, `(C, D)`, or None without a centre.
    """

    index: Tensor
    scale: Tensor
    constant: Tensor
    whitening: Tensor | None = None
    centre: Tensor | None = None
    offset: Tensor | None = None


@dataclass(frozen=True)
class EStepPlan:
    """How the components of M mixtures are computed: each in one of these groups.

    Attributes:
        products: at most one group per dtype.
        whitened: at most one group per dtype, and one from differences to each mean.
    """

    products: tuple[ProductTerms, ...]
    whitened: tuple[WhitenedTerms, ...] = ()

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Those in which components are computed."""
        products = {one.natural.dtype for one in self.products}
        return products | {one.constant.dtype for one in self.whitened}

    @property
    def num_groups(self) -> int:
        """Coordinate systems P: 1 where all mixtures read the same rows."""
        return len(self.products[0].natural) if self.products else 1

    def joint_dtype(self, narrow: torch.dtype) -> torch.dtype:
        """The dtype of log joint densities: that of all components, or that of the parameters."""
        return next(iter(self.dtypes)) if len(self.dtypes) == 1 else narrow

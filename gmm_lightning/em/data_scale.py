"""The scale of the data per feature, to which covariances are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.statistics import Moments


@dataclass(frozen=True)
class DataScale:
    """The scale of the data per feature, to which covariances are compared.

    Attributes:
        variance: of all rows, `(M, D)`. A constant column gets the standard deviation
            `max(1e-6 |mean|, 1e-6)`.
        constant: which columns are constant, `(M, D)`.
    """

    variance: Tensor
    constant: Tensor

    @classmethod
    def from_moments(cls, moments: Moments, family: Covariance, dtype: torch.dtype) -> Self:
        """The scale from the data's moments: the same in every iteration, for any parameters."""
        mean, variance = moments.data_variance(family)
        # A constant column has at most the deviation that rounding in the rows' dtype causes.
        constant = variance.sqrt() <= 4 * torch.finfo(dtype).eps * mean.abs()
        assumed = (1e-6 * mean.abs()).clamp(min=1e-6).square()
        return cls(torch.where(constant, assumed, variance), constant)

    def fill(self, moments: Moments, family: Covariance) -> Moments:
        """Moments with a covariance for groups without rows and for constant columns."""
        undefined = moments.dof <= 0
        scatter, dof = moments.scatter, moments.dof
        if bool(undefined.any()):
            dof = torch.where(undefined, 1.0, dof)
            whole = family.project(self.variance.diag_embed()).unsqueeze(1)
            scatter = torch.where(unsqueeze_like(undefined, scatter), whole, scatter)
        if bool(self.constant.any()):
            present = family.variances(scatter, self.variance.shape[-1]) / dof.unsqueeze(-1)
            missing = (self.variance.unsqueeze(-2) - present).clamp(min=0)
            missing = torch.where(self.constant.unsqueeze(-2), missing, 0.0)
            added = family.project(missing.diag_embed())
            scatter = scatter + unsqueeze_like(dof, added) * added
        return replace(moments, scatter=scatter, dof=dof)

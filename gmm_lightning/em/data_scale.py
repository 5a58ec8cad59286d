"""The scale of the data per feature, to which covariances are compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.statistics import Moments

# The local scale of a normal distribution, in standard deviations.
_WINDOW = 0.1
# The variance of a constant feature.
_OF_CONSTANT = 0.5 / math.pi


@dataclass(frozen=True)
class DataScale:
    """The scale of the data per feature, to which covariances are compared.

    Attributes:
        unit: what the floor is a share of, a squared length, `(M, D)`: see `local_scale`. A
            constant feature has `1 / (2 pi)`: with this variance its density is 1 at its value, so
            that likelihoods compare with those without the feature.
        constant: which features are constant, `(M, D)`.
    """

    unit: Tensor
    constant: Tensor

    @classmethod
    def from_moments(
        cls, moments: Moments, family: Covariance, dtype: torch.dtype, local_scale: Tensor
    ) -> Self:
        """From the data's moments: the same in every iteration, under any parameters.

        Args:
            moments: of the components.
            family: of the covariances.
            dtype: of the rows.
            local_scale: `(M, D)`; where it is not known the floor follows from the variance.
        """
        mean, variance = moments.data_variance(family)
        # What rounding leaves of a constant feature in the dtype of the rows.
        rounding = 4 * torch.finfo(dtype).eps * mean.abs()
        return cls.of(torch.where(variance.sqrt() <= rounding, 0.0, variance), local_scale)

    @classmethod
    def of(cls, variance: Tensor, local_scale: Tensor) -> Self:
        """From the variance and the local scale of each feature, `(M, D)`."""
        constant = (variance == 0) | (local_scale == 0)
        known = torch.where(
            torch.isnan(local_scale), _WINDOW * variance.sqrt(), local_scale.to(variance)
        )
        return cls(torch.where(constant, _OF_CONSTANT, known.square()), constant)

    @classmethod
    def known(cls, local_scale: Tensor) -> Self | None:
        """From the local scale of each feature, `(M, D)`, where all are known; else None."""
        if bool(torch.isnan(local_scale).any()):
            return None
        return cls.of(torch.ones_like(local_scale), local_scale)

    def of_form(self, scatter: Tensor, dof: Tensor) -> Self:
        """The scale for covariances with scatters and degrees of freedom `(M, G)` of a form.

        A family that averages over features has no variance of its own for a constant one.
        """
        if scatter.dim() > dof.dim() or bool(self.constant.all()):
            return self
        others = torch.where(self.constant, torch.inf, self.unit).amin(-1, keepdim=True)
        unit = torch.where(self.constant, others, self.unit)
        return replace(self, unit=unit, constant=torch.zeros_like(self.constant))

    def fill(self, moments: Moments, family: Covariance, data: Moments) -> Moments:
        """Moments with a covariance for groups without rows and for constant columns.

        Args:
            moments: with the pseudo-observations of priors.
            family: of the covariances.
            data: the moments of the rows alone.
        """
        undefined = moments.dof <= 0
        scatter, dof = moments.scatter, moments.dof
        if bool(undefined.any()):
            dof = torch.where(undefined, 1.0, dof)
            variance = torch.where(self.constant, _OF_CONSTANT, data.data_variance(family)[1])
            whole = family.project(variance.diag_embed()).unsqueeze(1)
            scatter = torch.where(unsqueeze_like(undefined, scatter), whole, scatter)
        if bool(self.constant.any()):
            present = family.variances(scatter, self.unit.shape[-1]) / dof.unsqueeze(-1)
            missing = torch.where(self.constant.unsqueeze(-2), _OF_CONSTANT - present, 0.0)
            added = family.project(missing.clamp(min=0).diag_embed())
            scatter = scatter + unsqueeze_like(dof, added) * added
        return replace(moments, scatter=scatter, dof=dof)

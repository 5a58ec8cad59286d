"""Components that lose their rows or their volume: how that is seen, mended and reported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import CollapseError
from gmm_lightning.statistics import Moments


@dataclass(frozen=True)
class Collapse:
    """A component that lost its rows or its volume, and what was done.

    Attributes:
        component: index of the component, after the batch indices if there are any; a tied
            covariance has index 0.
        count: rows it holds.
        smallest_eigenvalue: of its covariance, relative to the variance of the data per
            feature; infinite for a component that only lost its rows.
        action: `floored` (its volume was raised to the floor), `emptied` (its weight is zero
            and its mean and covariance are those of all rows) or `reseeded` (it starts anew at
            rows that the mixture explained poorly).
        iteration: M-steps done before, filled in by `fit_em` and the callbacks.
    """

    component: tuple[int, ...]
    count: float
    smallest_eigenvalue: float
    action: str
    iteration: int = 0

    def __str__(self) -> str:
        which = f"component {', '.join(map(str, self.component))}, iteration {self.iteration}"
        if self.action == "emptied":
            return f"{which}: it lost its rows and keeps weight 0 (fewer components may do)"
        if self.action == "reseeded":
            return (
                f"{which}: it starts anew at a poorly explained row ({self.count:.3g} rows, "
                f"smallest relative eigenvalue {self.smallest_eigenvalue:.2g} before)"
            )
        return (
            f"{which}: flat in some direction, so its covariance is held at the floor "
            f"({self.count:.3g} rows, smallest relative eigenvalue {self.smallest_eigenvalue:.2g}; "
            "a prior on the covariances, or fewer components, avoids it)"
        )


def refusal(event: Collapse) -> CollapseError:
    """What the policy `raise` says of an event."""
    return CollapseError(f"{event}; collapse='floor' repairs it and goes on")


def fresh(found: list[Collapse], latest: list[Collapse]) -> list[Collapse]:
    """The events that the iteration before did not report already."""
    known = {(event.component, event.action) for event in latest}
    return [event for event in found if (event.component, event.action) not in known]


@dataclass(frozen=True)
class Spread:
    """The scale of the data, per feature: what a covariance is small or large against.

    Attributes:
        variance: of all rows, `(*B, D)`. A constant column counts as having the standard
            deviation `max(1e-6 |mean|, 1e-6)`.
        constant: which columns are constant, `(*B, D)`.
    """

    variance: Tensor
    constant: Tensor

    @classmethod
    def of(cls, moments: Moments, family: Covariance, dtype: torch.dtype) -> Self:
        """Read off the data's moments: the same in every iteration, under any parameters."""
        mean, variance = moments.data_variance(family)
        # What rounding leaves of a constant column in the dtype of the rows.
        constant = variance.sqrt() <= 4 * torch.finfo(dtype).eps * mean.abs()
        assumed = (1e-6 * mean.abs()).clamp(min=1e-6).square()
        return cls(torch.where(constant, assumed, variance), constant)

    def fill(self, moments: Moments, family: Covariance) -> Moments:
        """Give a covariance to what has none: groups without rows, and constant columns."""
        undefined = moments.dof <= 0
        dof = torch.where(undefined, 1.0, moments.dof)
        whole = family.project(self.variance.diag_embed()).unsqueeze(self.variance.dim() - 1)
        scatter = torch.where(like(undefined, moments.scatter), whole, moments.scatter)
        if bool(self.constant.any()):
            present = family.variances(scatter, self.variance.shape[-1]) / dof.unsqueeze(-1)
            missing = (self.variance.unsqueeze(-2) - present).clamp(min=0)
            missing = torch.where(self.constant.unsqueeze(-2), missing, 0.0)
            added = family.project(missing.diag_embed())
            scatter = scatter + like(dof, added) * added
        return replace(moments, scatter=scatter, dof=dof)


def like(index: Tensor, values: Tensor) -> Tensor:
    """`(*B, G)` with trailing axes, to broadcast against values `(*B, G, ...)`."""
    return index[(..., *[None] * (values.dim() - index.dim()))]

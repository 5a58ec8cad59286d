"""The likelihood of left-out rows where there are fewer rows than features."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.left_out import LARGE, LeftOutRows
from gmm_lightning.linalg import thin_factor
from gmm_lightning.statistics import Moments, SufficientStatistics

# Up to this share of the features the span of the rows is worth its basis.
_NARROW = 0.5


class SpannedRows(LeftOutRows):
    """`LeftOutRows` in a basis of the few directions that the other rows have.

    In units of the target's deviations, the target is `(1 - a) C + a I`. Scatters and C lie in a
    space of r dimensions with the orthonormal basis Q, and outside of it every covariance is
    `v a / (n + v)`. So what takes `D^3` operations for every strength and share takes `r^3`.

    Args:
        whole: what is scored, in all dimensions.
        target: with a share of 0, `(F, 1, D, D)`.
        basis: Q, `(F, 1, D, r)`.
    """

    def __init__(self, whole: LeftOutRows, target: Tensor, basis: Tensor) -> None:
        self.rest, self.family, self.least = whole.rest, whole.family, whole.least
        self.counts, self.has_correlations = whole.counts, True
        self.num_outside = basis.shape[-2] - basis.shape[-1]
        variances = target.diagonal(dim1=-2, dim2=-1)
        self.log_det = 0.5 * variances.log().sum(-1)
        axes = basis / variances.sqrt().unsqueeze(-1)
        second = whole.held.second
        self.second, self.scatter, self.correlation = (
            axes.mT @ matrix @ axes for matrix in (second, self.rest.scatter, target)
        )
        every = (second.diagonal(dim1=-2, dim2=-1) / variances).sum(-1)
        inside = self.second.diagonal(dim1=-2, dim2=-1).sum(-1)
        self.outside = (every - inside).clamp(min=0)

    def target(self, share: float) -> Tensor:
        """The target of each fold in the basis, in units of its deviations."""
        identity = torch.eye(self.scatter.shape[-1]).to(self.scatter)
        return (1 - share) * self.correlation + share * identity

    def score(self, strength: float, share: float, target: Tensor) -> Tensor:
        """Nats per row, `(F,)`, as of the rows in all dimensions."""
        rows = self.rest.dof + strength
        scale = self.family.estimate(self.scatter + strength * target, rows)
        around = strength * share / rows
        log_det = self.log_det + 0.5 * self.num_outside * around.log()
        return self._mean_log_density(scale, self.second, log_det, self.outside / around)


def left_out_rows(
    folds: SufficientStatistics, rest: Moments, family: Covariance, least: Tensor
) -> LeftOutRows:
    """The likelihood of the rows of each fold, in the span of the others where that is narrow.

    Args:
        folds: statistics of the rows that are left out, batch shape `(F,)`.
        rest: moments of the others.
        family: of the covariances.
        least: the smallest variance of each feature, `(D,)`.
    """
    whole = LeftOutRows(folds, rest, family, least)
    if not whole.has_correlations or least.shape[-1] <= LARGE:
        return whole
    target = whole.target(0.0)
    deviations = target.diagonal(dim1=-2, dim2=-1).sqrt()
    share = 1 / rest.dof.sum(-1).clamp(min=1e-300)[..., None, None]
    # Of a sum of semidefinite matrices the span holds that of each.
    joint = target.squeeze(1) + share * rest.scatter.sum(1)
    joint = joint / deviations.mT / deviations
    factors = [thin_factor(one) for one in joint]
    ranks = [len(least) if one is None else one.shape[-1] for one in factors]
    if max(ranks) > _NARROW * len(least):
        return whole
    basis = torch.stack([_basis(one, max(ranks)) for one in factors if one is not None])
    return SpannedRows(whole, target, basis.unsqueeze(1))


def _basis(factor: Tensor, size: int) -> Tensor:
    """An orthonormal basis `(D, size)` whose span has the columns of a factor `(D, r)`."""
    d, rank = factor.shape
    more = torch.randn(d, size - rank, dtype=factor.dtype, generator=Generator().manual_seed(0))
    return torch.linalg.qr(torch.cat([factor, more], -1)).Q

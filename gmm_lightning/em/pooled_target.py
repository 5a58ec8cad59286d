"""A typical covariance of several clusters."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.statistics import Moments


def pooled_target(moments: Moments, share: float, family: Covariance, least: Tensor) -> Tensor:
    """A covariance for each of F sets of K clusters, `(F, 1, ...)` in the family's form.

    It has the geometric mean of each feature's variances, the average of a tied family, and the
    pooled correlations times `1 - share`.

    Args:
        moments: of the clusters, batch shape `(F,)`.
        share: of the diagonal.
        family: of the covariances.
        least: the smallest variance of each feature, `(D,)`.
    """
    d, dof = least.shape[-1], moments.dof.unsqueeze(-1)
    pooled = moments.scatter.sum(1, keepdim=True)
    pooled = pooled / unsqueeze_like(moments.dof.sum(1, keepdim=True), pooled)
    average = family.variances(pooled, d)
    # Of a small cluster the variance is that of all with a row of the average.
    own = (family.variances(moments.scatter, d) + average) / (dof + 1)
    logs = dof * own.clamp(min=1e-300).log()
    variance = (logs.sum(1, keepdim=True) / dof.sum(1, keepdim=True)).exp()
    if family.tied:
        variance = average
    variance = torch.maximum(variance, least)
    if pooled.dim() != moments.dof.dim() + 2:
        return family.project(variance.diag_embed())
    deviation = torch.where(average > 0, average, 1.0).sqrt()
    correlation = (1 - share) * pooled / (deviation.unsqueeze(-1) * deviation.unsqueeze(-2))
    identity = torch.eye(d, dtype=pooled.dtype, device=pooled.device)
    correlation = torch.where(identity > 0, 1.0, correlation)
    scale = variance.sqrt()
    return correlation * scale.unsqueeze(-1) * scale.unsqueeze(-2)

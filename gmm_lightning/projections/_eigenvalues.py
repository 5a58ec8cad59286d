"""Eigenvalues of scatters and covariances in any family's form, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.linalg import symmetrize, unsqueeze_like
from gmm_lightning.projections.base import P
from gmm_lightning.statistics import Moments

# From covariances `(*B, G, ...)` in a family's form, their weights `(*B, G)`, and the share of the
# largest eigenvalue up to which changes count as none, to others.
Change = Callable[[Tensor, Tensor, float], Tensor]


def map_eigenvalues(
    values: Tensor, num_axes: int, change: Callable[[Tensor], Tensor], tolerance: float
) -> Tensor:
    """Covariances with changed eigenvalues; those that would stay are kept as they are.

    Args:
        values: covariances in a family's form, `(*B, G, ...)`.
        num_axes: of the form: 2 of matrices, 1 of variances, 0 of one variance for all features.
        change: from eigenvalues `(*B, G, E)` to others, E being 1 for one variance.
        tolerance: changes up to this share of the largest eigenvalue count as none.
    """
    if num_axes == 2:
        found, vectors = torch.linalg.eigh(symmetrize(values))
    else:
        found, vectors = (values if num_axes else values.unsqueeze(-1)), None
    changed = change(found)
    slack = tolerance * found.amax(-1, keepdim=True) if vectors is not None else tolerance * found
    stays = ((changed - found).abs() <= slack).all(-1)
    if bool(stays.all()):
        return values
    if vectors is not None:
        moved = (vectors * changed.unsqueeze(-2)) @ vectors.mT
        return torch.where(stays[..., None, None], values, moved)
    changed = torch.where(stays.unsqueeze(-1), found, changed)
    return changed if num_axes else changed.squeeze(-1)


def change_scatter(moments: Moments, change: Change) -> Moments:
    """Moments with the scatters that a change of the covariances leaves, the same where they stay.

    The weights are the divisors of the scatters.
    """
    dof = moments.dof.clamp(min=torch.finfo(moments.dof.dtype).tiny)
    divisor = unsqueeze_like(dof, moments.scatter)
    values = moments.scatter / divisor
    changed = change(values, moments.dof, 0.0)
    scatter = torch.where(changed == values, moments.scatter, changed * divisor)
    return replace(moments, scatter=scatter)


def change_scale(parameters: P, covariance: Covariance, change: Change) -> P:
    """Parameters with changed covariances, the same where they stay; all weights are one."""
    raw, num_features = parameters.raw_scale, parameters.means.shape[-1]
    # The tolerance is what the dtype of the parameters leaves of an eigenvalue.
    tolerance = 8 * num_features * torch.finfo(raw.dtype).eps
    wide = covariance.scale(raw.double())
    values = covariance.project(covariance.covariance_matrix(wide, num_features))
    one = values.new_ones(raw.shape[: raw.dim() - len(covariance.shape(1, num_features)) + 1])
    changed = change(values, one, tolerance)
    if changed is values:
        return parameters
    same = (changed == values).reshape(*one.shape, -1).all(-1)
    found = covariance.raw(covariance.estimate(changed, one)).to(raw)
    return parameters._replace(raw_scale=torch.where(unsqueeze_like(same, raw), raw, found))

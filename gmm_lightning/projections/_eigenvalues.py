"""Eigenvalues of scatters and covariances in any family's form, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.linalg import symmetrize


def map_eigenvalues(
    values: Tensor, num_axes: int, change: Callable[[Tensor], Tensor], tolerance: float = 0.0
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


def constrain_scale(
    raw: Tensor,
    num_features: int,
    covariance: Covariance,
    change: Callable[[Tensor, int, float], Tensor],
) -> Tensor:
    """Raw scales of covariances that a function changes; the same where they stay.

    Args:
        raw: `(*B, G, ...)`.
        num_features: D.
        covariance: the family.
        change: from covariances in the family's form, the number of axes of the form and a
            relative tolerance, to others.
    """
    # The tolerance is what the dtype of the parameters leaves of an eigenvalue.
    tolerance = 8 * num_features * torch.finfo(raw.dtype).eps
    wide = covariance.scale(raw.double())
    values = covariance.project(covariance.covariance_matrix(wide, num_features))
    dof = values.new_ones(raw.shape[: raw.dim() - len(covariance.shape(1, num_features)) + 1])
    changed = change(values, values.dim() - dof.dim(), tolerance)
    if changed is values:
        return raw
    same = (changed == values).reshape(*dof.shape, -1).all(-1)
    found = covariance.raw(covariance.estimate(changed, dof)).to(raw)
    return torch.where(same.reshape(*dof.shape, *[1] * (raw.dim() - dof.dim())), raw, found)

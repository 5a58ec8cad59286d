"""Dense covariances as lower Cholesky factors: what `full` and `tied` share."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.errors import CollapseError
from gmm_lightning.linalg import raw_from_tril, symmetrize, tril_from_raw

scale = tril_from_raw
raw = raw_from_tril


def raw_units(unit: Tensor, groups: int) -> Tensor:
    """An entry below the diagonal has the unit of its row, `(*B, G, D, D)`."""
    d = unit.shape[-1]
    rows = unit[..., None, :, None].expand(*unit.shape[:-1], groups, d, d)
    below = torch.ones(d, d, dtype=torch.bool, device=unit.device).tril(-1)
    return torch.where(below, rows, 1.0)


def estimate(scatter: Tensor, dof: Tensor) -> Tensor:
    """Cholesky factor of `scatter / dof`, `(*B, G, D, D)`.

    Raises:
        CollapseError: the scatter is singular, which the floor prevents unless it is 0.
    """
    factor, info = torch.linalg.cholesky_ex(symmetrize(scatter) / dof[..., None, None])
    if (info != 0).any():
        failed = (info != 0).nonzero().tolist()
        raise CollapseError(
            f"the covariances at index {failed} are singular; set relative_floor or reg_covar of "
            "the covariance above 0, add a covariance prior, or use fewer components"
        )
    return factor

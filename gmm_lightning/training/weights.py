"""Sample weights on their way into a fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning.em.rows import as_tensor
from gmm_lightning.errors import InvalidDataError


def checked_weight(weight: Any, num_rows: int) -> Tensor | None:
    """Weights `(N,)` of floating point, or None.

    Raises:
        InvalidDataError: another length, or weights that are negative or not finite (by row).

    Example:
        >>> checked_weight([1, 0, 2], 3)
        tensor([1., 0., 2.], dtype=torch.float64)
    """
    if weight is None:
        return None
    weight = as_tensor(weight, "sample_weight")
    if weight.shape != (num_rows,):
        raise InvalidDataError(
            f"sample_weight must be of shape ({num_rows},), got shape {tuple(weight.shape)}"
        )
    weight = weight if weight.is_floating_point() else weight.to(torch.float64)
    bad = (~torch.isfinite(weight) | (weight < 0)).nonzero().squeeze(-1)
    if len(bad):
        named = ", ".join(str(int(row)) for row in bad[:10])
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise InvalidDataError(
            f"sample_weight must be finite and >= 0; it is not in row(s) {named}{more}"
        )
    return weight


def require_weight(weight: float, what: str) -> None:
    """Refuse rows of which none counts.

    Raises:
        InvalidDataError: the total is zero.
    """
    if not weight > 0:
        raise InvalidDataError(
            f"all sample weights of the {what} are 0, so no row of it counts; give some of its "
            "rows a positive weight"
        )

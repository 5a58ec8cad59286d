"""The box that holds all rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gmm_lightning.rows.batch import Batch


def bounding_box(batches: Iterable[Batch], like: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each feature, `(*B, D)`, among rows of some weight.

    Missing entries are left out; where none is left the least value is inf, the largest -inf.

    Args:
        batches: the rows.
        like: has the shape, dtype and device of the answer.

    Example:
        >>> bounding_box([Batch(torch.tensor([[1.0, 5.0], [3.0, 4.0]]))], torch.empty(2))
        (tensor([1., 4.]), tensor([3., 5.]))
    """
    low, high = torch.full_like(like, torch.inf), torch.full_like(like, -torch.inf)
    for batch in batches:
        if not batch.num_rows:
            continue
        x, used = batch.x.to(low), ~torch.isnan(batch.x).to(low.device)
        if batch.weight is not None:
            used = used & (batch.weight > 0).to(low.device).unsqueeze(-1)
        low = torch.minimum(low, torch.where(used, x, torch.inf).amin(0))
        high = torch.maximum(high, torch.where(used, x, -torch.inf).amax(0))
    return low, high

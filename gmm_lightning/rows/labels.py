"""Users' labels of rows as tensors: a class for each row, or a number for each class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows.batch import Batch
from gmm_lightning.rows.conversion import as_tensor


def as_labels(labels: Any, rows: tuple[int, ...]) -> Tensor:
    """Labels `(N,)` or `(N, C)` from those of rows `(*S)` or `(*S, C)`; truth values are numbers.

    Args:
        labels: anything that `as_tensor` takes.
        rows: S.

    Raises:
        InvalidDataError: not numbers, or not as many labels as rows.

    Example:
        >>> as_labels([0, 2, -1], (3,))
        tensor([ 0,  2, -1])
    """
    given = as_tensor(labels, "labels")
    given = given.long() if given.dtype == torch.bool else given
    if given.shape[: len(rows)] != rows or given.dim() - len(rows) not in (0, 1):
        shape = ", ".join(map(str, rows))
        raise InvalidDataError(
            f"labels must be of shape ({shape},) or ({shape}, C), as there are rows, got "
            f"{tuple(given.shape)}"
        )
    return given.reshape(-1, *given.shape[len(rows) :])


def is_labelled(labels: Tensor) -> Tensor:
    """Which labels `(n,)` or `(n, C)` say anything, `(n,)`: -1, NaN and equal numbers do not.

    Example:
        >>> is_labelled(torch.tensor([2, -1])), is_labelled(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        (tensor([ True, False]), tensor([ True, False]))
    """
    if labels.dim() == 2:
        return (labels > labels.amin(-1, keepdim=True)).any(-1)
    return labels >= 0


def weigh_unlabelled(batch: Batch, factor: float) -> Batch:
    """The batch with the weights of its rows without a label multiplied by a factor.

    Example:
        >>> batch = Batch(torch.zeros(2, 3), labels=torch.tensor([0, -1]))
        >>> weigh_unlabelled(batch, 0.5).weight
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    if factor == 1:
        return batch
    x, weight = batch.x, batch.weight
    if weight is None:
        weight = torch.ones(x.shape[:-1], dtype=torch.float64, device=x.device)
    if batch.labels is None:
        return batch._replace(weight=weight * factor)
    known = is_labelled(batch.labels).reshape(-1, *[1] * (x.dim() - 2)).to(weight.device)
    return batch._replace(weight=torch.where(known, weight, factor * weight))

"""The most probable component or class of rows, and which rows have none."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._messages import format_rows
from gmm_lightning._tracing import value_of
from gmm_lightning.errors import InvalidDataError


def most_probable(log_joint: Tensor) -> Tensor:
    """Index of the largest log joint density of each row, `(*S, K)` -> `(*S)`; -1 without one.

    A row has none if an entry of it is missing, or if it is so far away that every density is 0.

    Example:
        >>> most_probable(torch.tensor([[-1.0, -2.0], [float("nan"), float("nan")]]))
        tensor([ 0, -1])
    """
    largest, index = log_joint.max(-1)
    return torch.where(torch.isfinite(largest), index, -1)


def require_found(index: Tensor) -> Tensor:
    """Indices from `most_probable`, checked where values can be looked at.

    Raises:
        InvalidDataError: a row has none; the message names it.
    """
    lost = index < 0
    if value_of(lost.any()):
        raise InvalidDataError(
            f"no component is the most probable one in row(s) {format_rows(lost.reshape(-1))}: "
            "they have missing entries, or values that are too large to be squared; fill in what "
            'is missing by impute(layer, x), or leave it out by missing="marginalize"'
        )
    return index

"""Checks of labels, with the numbers of the rows in which they are wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._messages import format_list, format_rows
from gmm_lightning.errors import InvalidDataError

UNKNOWN = -1


def require_labels(labels: Tensor, num_rows: int, num_classes: int, first_row: int) -> None:
    """Refuse labels `(n,)` that are no classes, and soft ones `(n, C)` that are no likelihoods.

    Args:
        labels: the labels.
        num_rows: n.
        num_classes: C.
        first_row: number of the first row, for the message.

    Raises:
        InvalidDataError: the message names the rows, or the shape.
    """
    if labels.dim() not in (1, 2) or len(labels) != num_rows:
        raise InvalidDataError(
            f"labels must be of shape ({num_rows},) or ({num_rows}, {num_classes}), as there are "
            f"rows, got {tuple(labels.shape)}"
        )
    if labels.dim() == 2 and labels.shape[1] != num_classes:
        raise InvalidDataError(
            f"soft labels must be {num_classes} numbers for each row, one for each class, got "
            f"{labels.shape[1]}"
        )
    missing = torch.isnan(labels)
    if labels.dim() == 2:
        bad = (labels < 0) | torch.isinf(labels) | (missing & ~missing.all(-1, keepdim=True))
        expected = "soft labels must be finite and >= 0, or all NaN where nothing is known"
    else:
        bad = ((labels < UNKNOWN) | (labels >= num_classes)) & ~missing
        if labels.is_floating_point():
            bad |= (labels != labels.round()) & ~missing
        expected = f"labels must be classes from 0 to {num_classes - 1}, or -1 where not known"
    if bool(bad.any()):
        raise InvalidDataError(f"{expected}; they are not in row(s) {format_rows(bad, first_row)}")


def require_every_class(seen: Tensor) -> None:
    """Refuse classes `(C,)` of which no row was seen.

    Raises:
        InvalidDataError: the message names the classes.
    """
    absent = (~seen).nonzero().squeeze(-1).tolist()
    if absent:
        raise InvalidDataError(
            f"no row has a label of class {format_list(absent)}, and each of the {len(seen)} "
            "classes has components: leave it out, or label some of its rows"
        )

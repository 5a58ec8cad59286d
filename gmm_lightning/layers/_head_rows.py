"""Rows of features and targets of a head: their shapes, and those that do not count."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._messages import format_rows, format_value
from gmm_lightning._tracing import value_of
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.rows import keep_weights


def check_rows(
    h: Tensor, in_features: int, y: Tensor | None = None, target: tuple[int, ...] = ()
) -> None:
    """Raise `InvalidArgumentError` unless h is `(*S, in_features)`, and y `(*S, *target)`."""
    if not isinstance(h, Tensor) or h.dim() == 0 or h.shape[-1] != in_features:
        raise InvalidArgumentError(f"expected features (*S, {in_features}), got {format_value(h)}")
    if y is None:
        return
    expected = (*h.shape[:-1], *target)
    if not isinstance(y, Tensor) or y.shape != expected:
        hint = "; write y[..., None]" if expected == (*getattr(y, "shape", ()), 1) else ""
        raise InvalidArgumentError(
            f"features of shape {tuple(h.shape)} need targets of shape {expected}, got "
            f"{format_value(y)}{hint}"
        )


def skip_rows(h: Tensor, y: Tensor, weights: Tensor | None, like: Tensor) -> tuple[Tensor, int]:
    """Weights without those of rows that are not finite, and how many of these there are.

    The number is 0 where values cannot be looked at.
    """
    finite = torch.isfinite(y).all(-1)
    finite = finite & unsqueeze_like(torch.isfinite(h).all(-1), finite)
    skipped = ~finite if weights is None else ~finite & (weights > 0)
    return keep_weights(weights, finite, like), value_of(skipped.sum()) or 0


def replace_rows(
    h: Tensor, y: Tensor, weights: Tensor | None, loc: Tensor
) -> tuple[Tensor, Tensor]:
    """Features and targets in which those of weight 0 are 0 and `loc`.

    What they held, NaN too, is out before anything is computed: after it, gradients would be NaN.
    """
    if weights is None:
        return h, y
    counted = weights > 0
    needed = counted.reshape(*h.shape[:-1], -1).any(-1, keepdim=True)  # for any target
    y = torch.where(counted.unsqueeze(-1), y, loc.to(y.dtype))
    return torch.where(needed, h, 0.0), y


def nonfinite_error(h: Tensor, y: Tensor, outputs: Tensor, log_prob: Tensor) -> InvalidDataError:
    """The error that says which rows have no finite density, and why."""
    lead = h.shape[:-1]

    def rows(values: Tensor) -> str:
        bad = ~torch.isfinite(values.reshape(lead.numel(), -1)).all(-1)
        return format_rows(bad) if bool(bad.any()) else ""

    for name, value in (("features", h), ("targets", y)):
        if found := rows(value):
            return InvalidDataError(
                f"the {name} are not finite in row(s) {found}; skip_nonfinite=True or a mask "
                "leaves them out"
            )
    if found := rows(outputs):
        return InvalidDataError(
            f"the linear map of the head returns numbers that are not finite in row(s) {found}: "
            "its parameters are not finite, or features are out of its reach; standardise them"
        )
    return InvalidDataError(
        f"the log density is not finite in row(s) {rows(log_prob)}: features or targets are out "
        "of reach of the numbers; standardise them, or call initialize_from for the targets"
    )

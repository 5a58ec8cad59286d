"""Rows that are not known exactly: entries that are missing, and errors of measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._messages import format_rows
from gmm_lightning._validation import require_choice
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows.batch import Batch
from gmm_lightning.rows.conversion import as_tensor

# The name in `Batch.extra` of the covariances of the rows' errors: variances `(n, D)`, or
# matrices `(n, D, D)`.
ERROR_COVARIANCE = "error_covariance"

# Features that one integer holds beside the number of a row.
_BITS = 31


def require_missing(missing: Any) -> str | None:
    """What to do with missing entries, checked: None, which refuses them, or `em`.

    Raises:
        InvalidArgumentError: anything else.
    """
    if missing is None:
        return None
    return require_choice("missing", missing, ("em",), also=", or None")


def errors_of(batch: Batch) -> Tensor | None:
    """The covariances of the errors of a batch's rows, `(n, D)` or `(n, D, D)`; None: no errors."""
    return None if batch.extra is None else batch.extra.get(ERROR_COVARIANCE)


def with_errors(batch: Batch, error_covariance: Any) -> Batch:
    """The batch with the covariances of its rows' errors; None leaves it as it is.

    Example:
        >>> batch = with_errors(Batch(torch.zeros(3, 2)), torch.ones(3, 2))
        >>> errors_of(batch).shape
        torch.Size([3, 2])
    """
    if error_covariance is None:
        return batch
    errors = as_tensor(error_covariance, ERROR_COVARIANCE)
    return batch._replace(extra={**(batch.extra or {}), ERROR_COVARIANCE: errors})


def uncertain_rows(batch: Batch) -> Tensor:
    """Which rows have a missing entry, or an error of an entry that is not, `(n,)`.

    Example:
        >>> uncertain_rows(Batch(torch.tensor([[0.0, 1.0], [torch.nan, 2.0]])))
        tensor([False,  True])
    """
    uncertain = torch.isnan(batch.x).flatten(1).any(-1)
    errors = errors_of(batch)
    return uncertain if errors is None else uncertain | (errors != 0).flatten(1).any(-1)


def check_errors(batch: Batch, first_row: int = 0) -> None:
    """Check that errors have covariances: of missing entries they are not read.

    Raises:
        InvalidDataError: of another shape, or not finite, symmetric and positive semidefinite; the
            message names the rows.
    """
    errors = errors_of(batch)
    if errors is None:
        return
    n, d = batch.num_rows, batch.x.shape[-1]
    if errors.shape not in ((n, d), (n, d, d)):
        raise InvalidDataError(
            f"error_covariance must hold variances of shape ({n}, {d}) or matrices of shape "
            f"({n}, {d}, {d}), one for each row, got shape {tuple(errors.shape)}"
        )
    observed = (~torch.isnan(batch.x)).reshape(n, -1, d).any(1)
    errors = masked_errors(errors.double(), observed)
    bad = ~torch.isfinite(errors)
    if errors.dim() == 2:
        bad |= errors < 0
    elif not bool(bad.any()) and n:
        largest = errors.abs().amax((-2, -1))
        rounding = 16 * d * torch.finfo(torch.float32).eps * largest
        bad = (errors - errors.mT).abs().amax((-2, -1)) > rounding
        bad |= torch.linalg.eigvalsh(errors)[:, 0] < -rounding
    if bool(bad.any()):
        kind = ">= 0" if errors.dim() == 2 else "symmetric and positive semidefinite"
        raise InvalidDataError(
            f"error_covariance must be finite and {kind}; it is not in row(s) "
            f"{format_rows(bad, first_row)}"
        )


def masked_errors(errors: Tensor, observed: Tensor) -> Tensor:
    """Covariances `(n, D)` or `(n, D, D)` with zeros where an entry `(n, D)` is not observed."""
    mask = observed
    if errors.dim() > mask.dim():
        mask = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    return torch.where(mask, errors, 0.0)


def number_patterns(pattern: Tensor, cells: Tensor | None = None) -> Tensor:
    """The same number for rows of the same pattern `(N, D)`, and cell, from 0, `(N,)`.

    Example:
        >>> number_patterns(torch.tensor([[True, False], [False, False], [True, False]]))
        tensor([1, 0, 1])
    """
    number = torch.zeros_like(pattern[:, 0], dtype=torch.long) if cells is None else cells
    for some in pattern.split(_BITS, -1):
        bits = 2 ** torch.arange(some.shape[-1], device=some.device)
        code = (number << _BITS) + (some * bits).sum(-1)
        number = torch.unique(code, return_inverse=True)[1]
    return number


class ObservedFeatures:
    """Which features are observed in a row of positive weight, of each mixture of a batch."""

    def __init__(self) -> None:
        self._found: Tensor | None = None

    def add(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        found = ~torch.isnan(batch.x)
        if batch.weight is not None:
            found = found & (batch.weight > 0).unsqueeze(-1)
        found = found.any(0)
        self._found = found if self._found is None else self._found | found

    def require_all(self, columns: Sequence[str] = ()) -> None:
        """Refuse a feature that is never observed.

        Raises:
            InvalidDataError: the message says which.
        """
        if self._found is None or bool(self._found.all()):
            return
        every = (~self._found).reshape(-1, self._found.shape[-1]).any(0)
        never = every.nonzero().squeeze(-1).tolist()
        if len(never) == len(every):
            raise InvalidDataError("every entry is missing: there is nothing to fit")
        names = ", ".join(repr(columns[i]) if columns else str(i) for i in never)
        raise InvalidDataError(
            f"feature(s) {names} are never observed, and nothing can be learnt of them: leave them "
            "out"
        )

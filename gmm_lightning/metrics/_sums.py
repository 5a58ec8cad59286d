"""Base of the metrics: weighted sums over rows, in float64 where the device has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from gmm_lightning._messages import format_list
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import accumulator_dtype


class SumMetric(Metric):
    """Metric whose states are added: over batches, over metrics (`merge_state`), over processes.

    A subclass declares its states with `add_sum` and adds to them in `update`. They keep their
    dtype, where torchmetrics' own `.to(torch.float16)` rounds. Different sums have different
    names: a `MetricCollection` shares states whose names, shapes and first values are the same.
    """

    full_state_update: bool | None = False
    is_differentiable: bool | None = True
    higher_is_better: bool | None = None

    def add_sum(self, name: str, *shape: int) -> None:
        """Declare a state of zeros that is summed."""
        dtype = accumulator_dtype(torch.get_default_device())
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        """Move states to other devices, but not to other dtypes: see `torch.nn.Module._apply`."""

        def moved(state: Tensor) -> Tensor:
            device = fn(torch.zeros(1, device=state.device)).device
            return state.to(device, accumulator_dtype(device))

        super()._apply(moved, exclude_state)
        return self

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Figure and axes with `val`, one result or a list of them; None: `compute()`."""
        return self._plot(val, ax)


class WeightedMean(SumMetric):
    """Weighted mean over rows of the values that `update` passes to `add`.

    Args:
        total: name of the sum, as a state and in messages.
        options: of `torchmetrics.Metric`.
    """

    num_samples: Tensor

    def __init__(self, total: str, **options: Any) -> None:
        super().__init__(**options)
        self.total = total
        self.add_sum(total)
        self.add_sum("num_samples")

    def add(self, values: Tensor, weight: Tensor | None) -> None:
        """Add values of rows, of any shape, and weights that broadcast to it."""
        values, weight = weight_values(values, weight, self.total)
        setattr(self, self.total, getattr(self, self.total) + (weight * values).sum())
        self.num_samples = self.num_samples + weight.sum()

    def compute(self) -> Tensor:
        """Weighted mean; NaN before any row."""
        return getattr(self, self.total) / self.num_samples


def weight_values(values: Tensor, weight: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Values of rows and their weights, in the shape of the values and the dtype of sums.

    A weight of 0 drops the row, even with NaN; NaN elsewhere is refused.
    """
    values = as_numbers(values, name)
    weight = _expand_weight(values, weight)
    values = torch.where(weight > 0, values, 0.0)
    raise_for_rows(values.isnan(), f"{name} is NaN")
    return values, weight


def weight_vectors(values: Tensor, weight: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Rows of K numbers `(*S, K)`, 0 where the weight is 0, and their weights `(*S,)`."""
    values = as_numbers(values, name)
    if values.dim() == 0 or values.shape[-1] == 0:
        raise InvalidArgumentError(f"expected {name} (*S, K), got shape {tuple(values.shape)}")
    weight = _expand_weight(values[..., 0], weight)
    return torch.where(weight.unsqueeze(-1) > 0, values, 0.0), weight


def _expand_weight(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Weights in the shape of rows; ones for None."""
    if weight is None:
        return torch.ones_like(rows)
    weight = as_numbers(weight, "weight")
    try:
        full = weight.expand(rows.shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"expected weights that broadcast to rows of shape {tuple(rows.shape)}, got shape "
            f"{tuple(weight.shape)}"
        ) from None
    raise_for_rows(~(full.isfinite() & (full >= 0)), "weight is not a finite number >= 0")
    return full


def as_numbers(values: Any, name: str) -> Tensor:
    """Tensor of real numbers in the dtype of sums."""
    if not isinstance(values, Tensor) or values.is_complex():
        kind = str(values.dtype) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidArgumentError(f"expected {name} as a tensor of real numbers, got {kind}")
    return values.to(accumulator_dtype(values.device))


def categorical_entropy(share: Tensor) -> Tensor:
    """Entropy `-sum_k c_k log c_k`, `(*S,)`, with a finite gradient where a share is 0."""
    return -(share * torch.where(share > 0, share, 1.0).log()).sum(-1)


def raise_for_rows(bad: Tensor, problem: str) -> None:
    """Raise `InvalidDataError` with the problem and the rows where a mask is True."""
    if bool(bad.any()):
        rows = [at[0] if len(at) == 1 else tuple(at) for at in bad.nonzero().tolist()]
        raise InvalidDataError(f"{problem} in rows {format_list(rows, limit=5)}")

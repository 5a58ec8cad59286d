"""What all metrics here are: weighted sums over rows, in float64 on every device that has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import accumulator_dtype


class Sums(Metric):
    """States that add: over batches, over metrics (`merge_state`), over processes.

    A subclass declares its states with `add_sum` and adds to them in `update`. No move to another
    device or dtype takes digits from them, where torchmetrics' own `.to(torch.float16)` rounds.

    Names of states differ between metrics that sum different things: a `MetricCollection` shares
    the states of metrics whose names, shapes and first values are the same.

    Args:
        options: of `torchmetrics.Metric`.
    """

    full_state_update: bool | None = False
    is_differentiable: bool | None = True
    higher_is_better: bool | None = None

    def add_sum(self, name: str, *shape: int) -> None:
        """Declare a state of zeros."""
        dtype = accumulator_dtype(torch.get_default_device())
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        """Follow to other devices, but not to other dtypes: see `torch.nn.Module._apply`."""

        def moved(state: Tensor) -> Tensor:
            device = fn(torch.zeros(1, device=state.device)).device
            return state.to(device, accumulator_dtype(device))

        super()._apply(moved, exclude_state)
        return self

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value, or a list of values as they came.

        Args:
            val: what `compute` or `forward` returned, or a list of it; None: `compute()`.
            ax: axes to draw on; None for a new figure of pyplot's.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)


class Mean(Sums):
    """A weighted mean over rows of something that `update` gives to `add`.

    Args:
        total: what the sum is called, as a state and in messages.
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
        values, weight = weighted(values, weight, self.total)
        setattr(self, self.total, getattr(self, self.total) + (weight * values).sum())
        self.num_samples = self.num_samples + weight.sum()

    def compute(self) -> Tensor:
        """The mean; NaN before any row."""
        return getattr(self, self.total) / self.num_samples


def weighted(values: Tensor, weight: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Values of rows and their weights, both of the shape of the values, in the dtype of sums.

    Raises:
        InvalidArgumentError: no tensor of numbers, or weights of another shape or negative.
        InvalidDataError: NaN where the weight is not 0, naming the rows.
    """
    values = numbers(values, name)
    weight = weight_of(values, weight)
    # A weight of 0 drops the row, whatever is in it.
    values = torch.where(weight > 0, values, 0.0)
    refuse(values.isnan(), f"{name} is NaN")
    return values, weight


def weight_of(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Weights of rows: of their shape, and 1 where there are none.

    Raises:
        InvalidArgumentError: no numbers, another shape, or not finite numbers >= 0.
    """
    if weight is None:
        return torch.ones_like(rows)
    weight = numbers(weight, "weight")
    try:
        full = weight.expand(rows.shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"expected weights that broadcast to rows of shape {tuple(rows.shape)}, got shape "
            f"{tuple(weight.shape)}"
        ) from None
    refuse(~(full.isfinite() & (full >= 0)), "weight is not a finite number >= 0")
    return full


def numbers(values: Any, name: str) -> Tensor:
    """A tensor in the dtype of sums.

    Raises:
        InvalidArgumentError: no tensor of real numbers.
    """
    if not isinstance(values, Tensor) or values.is_complex():
        kind = str(values.dtype) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidArgumentError(f"expected {name} as a tensor of real numbers, got {kind}")
    return values.to(accumulator_dtype(values.device))


def rows_of(values: Any, name: str) -> Tensor:
    """Rows `(*S, K)`, one number for each of some things in the last axis.

    Raises:
        InvalidArgumentError: no tensor of real numbers, or one without that axis.
    """
    values = numbers(values, name)
    if values.dim() == 0 or values.shape[-1] == 0:
        raise InvalidArgumentError(f"expected {name} (*S, K), got shape {tuple(values.shape)}")
    return values


def refuse(bad: Tensor, what: str) -> None:
    """Raise where a mask over rows is True.

    Raises:
        InvalidDataError: what is wrong, and in which rows.
    """
    if not bool(bad.any()):
        return
    found = bad.nonzero()
    first = [at[0] if len(at) == 1 else tuple(at) for at in found[:5].tolist()]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise InvalidDataError(f"{what} in rows {', '.join(map(str, first))}{more}")

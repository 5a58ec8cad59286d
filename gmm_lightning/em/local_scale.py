"""The local scale of each feature: how close together rows lie where they lie closest."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows import RowSource

# A window holds two shares of the rows, each of this size and number of rows at least. A single
# value counts as one share, so that with 1 % of the rows moved next to it half a window is left.
_SHARE, _FEWEST_ROWS = 0.019, 8.0
_OfColumns = Callable[[Tensor, Tensor | None], Tensor]

# Local scales are at least so many steps of float64.
_FINEST = 1e4
# A thousandth of a share forgives rounding.
_TWICE = 1.999
# Values that are sorted, and rows at least and at most.
_MAX_VALUES, _MIN_ROWS, _MAX_ROWS = 1 << 19, 1 << 11, 1 << 14


@torch.no_grad()
def local_scale(source: RowSource, dtype: torch.dtype | None = None) -> Tensor:
    """The narrowest window that holds 4 % of the rows, for each feature, `(*B, D)`.

    It is a length in the units of the feature: equivariant under shifts and scales, and the same
    wherever few rows lie far away. A value that many rows share counts as half a window at most,
    so that neither a spike at one value nor a few near duplicates are taken for a scale, and the
    shares are of the rows beside the most frequent value. Of many rows a sample is read, the same
    one in every process. A constant feature has 0.

    Args:
        source: rows `(N, *B, D)`; their weights count as numbers of rows.
        dtype: of the layer that is to be fitted; None: any.

    Raises:
        InvalidDataError: steps of the dtype at the rows are wider than twice the local scale.
    """
    width = max(1, source.num_features)
    limit = min(_MAX_ROWS, max(_MIN_ROWS, _MAX_VALUES // width))
    rows = source.sample(limit, Generator().manual_seed(0))
    x, weight, windows, median = rows.x.double(), rows.weight, narrowest_windows, _median
    if source.uncertain:
        windows, median = _of_observed(windows), _of_observed(median)
    scale = windows(x, weight)
    # A floor of 1e-8 is then no smaller than the steps of float64 where the rows lie.
    size = median(x.abs(), weight)
    steps = _FINEST * torch.finfo(torch.float64).eps * size
    if dtype is not None:
        _require_resolution(size.expand_as(scale), scale, dtype)
    scale = torch.where(scale > 0, torch.maximum(scale, steps.expand_as(scale)), scale)
    if source.num_rows <= limit or bool((scale > 0).all()):
        return scale
    # What is constant in the sample need not be so in all rows.
    low, high = torch.full_like(scale, torch.inf), torch.full_like(scale, -torch.inf)
    for batch in source:
        if batch.num_rows:
            own = batch.x if batch.weight is None else _used(batch.x, batch.weight, torch.inf)
            low = torch.minimum(low, own.nan_to_num(torch.inf).amin(0).double())
            own = batch.x if batch.weight is None else _used(batch.x, batch.weight, -torch.inf)
            high = torch.maximum(high, own.nan_to_num(-torch.inf).amax(0).double())
    return torch.where(scale > 0, scale, high - low)


def _of_observed(function: _OfColumns) -> _OfColumns:
    """The function of rows `(N, *B, D)`, taken of each column's observed entries alone."""

    def of_observed(x: Tensor, weight: Tensor | None) -> Tensor:
        shape = x.shape[1:] if weight is None else (*weight.shape[1:], x.shape[-1])
        columns = x.expand(len(x), *shape).reshape(len(x), -1)
        found = columns.new_zeros(columns.shape[1])
        for i, column in enumerate(columns.unbind(1)):
            known = ~column.isnan()
            own = None
            if weight is not None:
                own = weight.reshape(len(x), -1)[known, i // shape[-1]]
                own = own if bool((own > 0).any()) else None
            if bool(known.any()):
                found[i] = function(column[known].unsqueeze(-1), own)
        return found.reshape(shape)

    return of_observed


def _used(x: Tensor, weight: Tensor, other: float) -> Tensor:
    """Rows `(N, *B, D)`, with another value where their weight is 0."""
    return torch.where((weight > 0).unsqueeze(-1), x, other)


def _require_resolution(size: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """Refuse features of median size `(*B, D)` whose differences a dtype cannot hold."""
    if dtype == torch.float64:
        return
    step, d = torch.finfo(dtype).eps * size, size.shape[-1]
    # Smaller steps are the rounding of a constant in float64.
    lost = ((step > 2 * scale) & (scale > 1e-12 * size)).reshape(-1, d).nonzero()
    if len(lost):
        m, feature = lost[0].tolist()
        at, between, width = (v.reshape(-1, d)[m, feature] for v in (size, step, scale))
        raise InvalidDataError(
            f"feature {feature} has values around {at:.3g} that lie {width:.2g} apart where they "
            f"are closest, and {dtype} has steps of {between:.2g} there: use layer.double(), or "
            "subtract an offset"
        )


def narrowest_windows(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Widths of the narrowest windows over sorted rows `(N, *B, D)`, `(*B, D)`: see `local_scale`.

    Example:
        >>> x = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 1e8]).repeat_interleave(4)
        >>> narrowest_windows(x[:, None])
        tensor([1.])
    """
    if weight is not None:
        weight = weight.to(x) * x.new_ones(x.shape[:-1])
        x = x.expand(*weight.shape, x.shape[-1])
    n, shape = len(x), x.shape[1:]
    columns = x.reshape(n, -1).T
    if weight is None:
        values = _sorted(columns)
        mass = torch.ones_like(values)
    else:
        values, order = columns.sort(-1)
        counted = weight.reshape(n, -1).T
        counted = counted * (counted > 0).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True)
        mass = counted.repeat_interleave(shape[-1], 0).gather(-1, order)
    tied = (values[:, 1:] == values[:, :-1]).any(-1)
    if weight is not None:
        tied = torch.ones_like(tied)
    share = min(max(_SHARE * n, _FEWEST_ROWS), (n - 1) / 4)
    size = max(1, math.ceil(_TWICE * share) - 1)
    width = values[:, size:] - values[:, :-size]
    narrowest = width.amin(-1) if n > 1 else values.new_zeros(len(values))
    some = tied.nonzero().squeeze(-1)
    if len(some):
        narrowest[some] = _narrowest_beside_ties(values[some], mass[some])
    return narrowest.reshape(shape)


def _sorted(columns: Tensor) -> Tensor:
    """Values `(C, N)` in order; numpy's vector instructions take a tenth of torch's time."""
    if columns.device.type != "cpu":
        return columns.sort(-1).values
    return torch.from_numpy(np.sort(np.ascontiguousarray(columns.numpy()), -1))


def _median(x: Tensor, weight: Tensor | None) -> Tensor:
    """The median of rows of positive weight `(N, *B, D)`: the lower one of two, `(*B, D)`."""
    if weight is not None:
        return _used(x, weight, torch.nan).nanmedian(0).values
    if x.device.type != "cpu":
        return x.median(0).values
    middle = (len(x) - 1) // 2
    columns = np.ascontiguousarray(x.reshape(len(x), -1).T.numpy())
    return torch.from_numpy(np.partition(columns, middle, -1)[:, middle]).reshape(x.shape[1:])


def _narrowest_beside_ties(values: Tensor, mass: Tensor) -> Tensor:
    """The same for sorted values `(C, N)` with masses, where values may be equal."""
    total = mass.cumsum(-1)
    before = total - mass
    first = torch.ones_like(values, dtype=torch.bool)
    first[:, 1:] = values[:, 1:] > values[:, :-1]
    # The mass of the same value in the rows before, and of the most frequent value.
    same = before - torch.where(first, before, 0.0).cummax(-1).values
    others = total[:, -1:] - (same + mass).amax(-1, keepdim=True)
    share = (_SHARE * total[:, -1:]).clamp(min=_FEWEST_ROWS).minimum(others / 4)
    capped = (share - same).clamp(min=0.0).minimum(mass).cumsum(-1)
    # Where the window that begins at each row ends.
    start = torch.cat([torch.zeros_like(share), capped[:, :-1]], -1)
    end = torch.searchsorted(capped, start + _TWICE * share)
    width = values.gather(-1, end.clamp(max=values.shape[-1] - 1)) - values
    width = torch.where((end < values.shape[-1]) & (width > 0), width, torch.inf)
    narrowest = width.amin(-1)
    return torch.where(torch.isfinite(narrowest), narrowest, 0.0)

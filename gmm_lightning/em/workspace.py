"""The buffers of a fit: made once and used for every chunk of every E-step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan_terms import EStepPlan, ProductTerms
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype

# With fewer rows the overhead of a matrix product dominates; more do not make it faster.
_MIN_ROWS, _MAX_ROWS = 128, {"cpu": 1 << 12, "other": 1 << 20}
# A product divides its operands for the cache itself: so many times the rows that fit save calls
# (measured: 0.92 to 0.95 of the time for dense covariances, 1.02 for diag).
_BEYOND_CACHE = 2
# Features of so many terms per component are summed faster as `R T'` than as `T R'` (measured:
# 2 x in float64 for 8 components of 16 features; in float32 1.5 x, for 16 components 0.9 x).
_LONG = 4
# A fit has chunks of one size, and a shorter one at the end of each batch.
_MAX_BUFFERS = 4


@dataclass(frozen=True)
class Buffers:
    """Working memory for chunks of n rows.

    Shape:
        diff `(n, P, D)`; features `(P, 1 + Q + D, n)`, the rows of data as columns; z
        `(P, D, n)`, a part of it; sums `(P, 1 + Q + D, C)`, or `(P, C, 1 + Q + D)` by component,
        None where products are added up in their own dtype. Where P is 1 that axis is left out.

    Attributes:
        write_features: computes the second-order terms from z.
        multiply: the product of matrices, or of batches of them.
        add_product: adds such a product to a matrix.
    """

    diff: Tensor
    features: Tensor
    z: Tensor
    sums: Tensor | None
    write_features: Callable[[], None]
    multiply: Callable[..., Tensor]
    add_product: Callable[[Tensor, Tensor, Tensor], Tensor]


class Workspace:
    """Buffers for chunks, kept by size.

    Args:
        chunk_size: rows at a time; None: as many as stay in cache.

    Attributes:
        overlap: components of a mixture that shared a row in the last E-step, on average; None
            before it.

    Raises:
        InvalidArgumentError: a chunk size below 1.
    """

    def __init__(self, chunk_size: int | None = None) -> None:
        if chunk_size is not None and chunk_size < 1:
            raise InvalidArgumentError(f"chunk_size must be >= 1, got {chunk_size}")
        self.chunk_size = chunk_size
        self.overlap: float | None = None
        self._made: dict[tuple[object, ...], Buffers] = {}
        self._joint: tuple[tuple[object, ...], Tensor] | None = None

    def rows_per_chunk(self, plan: EStepPlan | None, parameters: MixtureParameters) -> int:
        """Number of rows whose intermediate results in the kernel stay in cache."""
        if self.chunk_size is not None:
            return self.chunk_size
        means = parameters.means
        if plan is None:
            return rows_per_chunk(means.numel(), means)
        kind = "cpu" if means.device.type == "cpu" else "other"
        size = max(dtype.itemsize for dtype in plan.dtypes)
        numbers = means.shape[:-1].numel()
        for terms in plan.products:
            groups, _, length = terms.natural.shape
            numbers += groups * (length + terms.features.num_scratch)
        rows = _BEYOND_CACHE * rows_per_chunk(numbers * size // means.element_size(), means)
        rows = rows // 64 * 64
        return max(_MIN_ROWS, min(_MAX_ROWS[kind], rows))

    def log_joint(
        self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Memory for log joint densities `(P, C, n)`, the same at every call."""
        key = (shape, dtype, device)
        if self._joint is None or self._joint[0] != key:
            self._joint = key, torch.empty(shape, dtype=dtype, device=device)
        return self._joint[1]

    def buffers(self, terms: ProductTerms, num_rows: int) -> Buffers:
        """Buffers for chunks of `num_rows` rows, the same ones at every call."""
        key = (terms.natural.shape, terms.natural.dtype, terms.natural.device, num_rows)
        if key not in self._made:
            while len(self._made) >= _MAX_BUFFERS:
                self._made.pop(next(iter(self._made)))
            self._made[key] = _make_buffers(terms, num_rows)
        return self._made[key]


def sums_by_component(terms: ProductTerms) -> bool:
    """Whether sums are faster as `R T'`, one row for each component, than as `T R'`."""
    _, columns, length = terms.natural.shape
    return length >= _LONG * columns


def _make_buffers(terms: ProductTerms, num_rows: int) -> Buffers:
    groups, columns, length = terms.natural.shape
    features, make = terms.features, terms.natural.new_empty
    d, q = features.num_features, features.num_terms
    tall = make(groups, length + features.num_scratch, num_rows)
    tall[:, 0] = 1.0
    write = features.make_feature_writer(tall[:, 1 + q :], tall[:, 1 : 1 + q])
    diff = make(num_rows, groups, d)
    sums: Tensor | None = None
    if tall.dtype != accumulator_dtype(tall.device):
        by_component = sums_by_component(terms)
        sums = make(groups, *((columns, length) if by_component else (length, columns)))
    if groups == 1:
        tall, diff = tall[0], diff[:, 0]
        sums = None if sums is None else sums[0]
    return Buffers(
        diff=diff,
        features=tall[..., :length, :],
        z=tall[..., 1 + q : length, :],
        sums=sums,
        write_features=write,
        multiply=torch.mm if groups == 1 else torch.bmm,
        add_product=Tensor.addmm_ if groups == 1 else Tensor.baddbmm_,
    )

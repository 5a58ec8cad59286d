"""The buffers of a fit: made once and used for every chunk of every E-step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import EStepPlan
from gmm_lightning.errors import InvalidArgumentError

# With fewer rows the overhead of a matrix product dominates; more do not make it faster.
_MIN_ROWS, _MAX_ROWS = 128, {"cpu": 1 << 12, "other": 1 << 20}
# A fit has chunks of one size, and a shorter one at the end of each batch.
_MAX_BUFFERS = 4


@dataclass(frozen=True)
class Buffers:
    """Working memory for chunks of n rows.

    Shape:
        diff `(n, P, D)`; features `(P, 1 + Q + D, n)`, the rows of data as columns; z
        `(P, D, n)`, a part of it; log_joint `(P, C, n)`; sums `(P, 1 + Q + D, C)`. Where P is 1
        that axis is left out.

    Attributes:
        write_features: computes the second-order terms from z.
        multiply: the product of matrices, or of batches of them.
    """

    diff: Tensor
    features: Tensor
    z: Tensor
    log_joint: Tensor
    sums: Tensor
    write_features: Callable[[], None]
    multiply: Callable[..., Tensor]


class Workspace:
    """Buffers for chunks, kept by size.

    Args:
        chunk_size: rows at a time; None: as many as stay in cache.

    Raises:
        InvalidArgumentError: a chunk size below 1.
    """

    def __init__(self, chunk_size: int | None = None) -> None:
        if chunk_size is not None and chunk_size < 1:
            raise InvalidArgumentError(f"chunk_size must be >= 1, got {chunk_size}")
        self.chunk_size = chunk_size
        self._made: dict[tuple[object, ...], Buffers] = {}

    def rows_per_chunk(self, plan: EStepPlan | None, parameters: MixtureParameters) -> int:
        """Number of rows whose intermediate results in the kernel stay in cache."""
        if self.chunk_size is not None:
            return self.chunk_size
        if plan is None:
            return rows_per_chunk(parameters.means.numel(), parameters.means)
        kind = "cpu" if plan.natural.device.type == "cpu" else "other"
        groups, columns, length = plan.natural.shape
        numbers = groups * (columns + length + plan.features.num_scratch)
        if plan.careful is not None:
            # Differences, whitened or weighted ones, and their squares.
            numbers += 3 * len(plan.careful) * plan.features.num_features
        rows = rows_per_chunk(numbers, plan.natural) // 64 * 64
        return max(_MIN_ROWS, min(_MAX_ROWS[kind], rows))

    def buffers(self, plan: EStepPlan, num_rows: int) -> Buffers:
        """Buffers for chunks of `num_rows` rows, the same ones at every call."""
        key = (plan.natural.shape, plan.natural.dtype, plan.natural.device, num_rows)
        if key not in self._made:
            while len(self._made) >= _MAX_BUFFERS:
                self._made.pop(next(iter(self._made)))
            self._made[key] = _make_buffers(plan, num_rows)
        return self._made[key]


def _make_buffers(plan: EStepPlan, num_rows: int) -> Buffers:
    groups, columns, length = plan.natural.shape
    features, make = plan.features, plan.natural.new_empty
    d, q = features.num_features, features.num_terms
    tall = make(groups, length + features.num_scratch, num_rows)
    tall[:, 0] = 1.0
    write = features.make_feature_writer(tall[:, 1 + q :], tall[:, 1 : 1 + q])
    diff, log_joint = make(num_rows, groups, d), make(groups, columns, num_rows)
    sums = make(groups, length, columns)
    if groups == 1:
        tall, diff, log_joint, sums = tall[0], diff[:, 0], log_joint[0], sums[0]
    return Buffers(
        diff=diff,
        features=tall[..., :length, :],
        z=tall[..., 1 + q : length, :],
        log_joint=log_joint,
        sums=sums,
        write_features=write,
        multiply=torch.mm if groups == 1 else torch.bmm,
    )

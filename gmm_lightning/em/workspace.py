"""The memory of a fit: buffers made once and used for every chunk of every pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning.em.plan import Plan
from gmm_lightning.errors import InvalidArgumentError

# What a chunk may take: on a CPU its features and log densities stay in the second-level cache,
# a GPU wants large launches.
CHUNK_BYTES = {"cpu": 3 << 19, "other": 1 << 28}
FEWEST_ROWS, MOST_ROWS = 128, {"cpu": 1 << 12, "other": 1 << 20}


@dataclass(frozen=True)
class Buffers:
    """Working memory for chunks of n rows.

    Shape:
        diff `(n, P, D)`; features `(P, 1 + Q + D, n)`, the rows of data as columns; z
        `(P, D, n)`, a part of it; log_joint `(P, M, n)`; sums `(P, 1 + Q + D, M)`. Where P is 1
        that axis is left out.

    Attributes:
        fill: computes the second-order terms from z.
        multiply: the product of matrices, or of batches of them.
    """

    diff: Tensor
    features: Tensor
    z: Tensor
    log_joint: Tensor
    sums: Tensor
    fill: Callable[[], None]
    multiply: Callable[..., Tensor]


class Workspace:
    """Buffers by size; a fit keeps one for all its passes.

    Args:
        chunk_size: rows at a time; None: what stays in cache.

    Raises:
        InvalidArgumentError: a chunk size below 1.
    """

    def __init__(self, chunk_size: int | None = None) -> None:
        if chunk_size is not None and chunk_size < 1:
            raise InvalidArgumentError(f"chunk_size must be >= 1, got {chunk_size}")
        self.chunk_size = chunk_size
        self._made: dict[tuple[object, ...], Buffers] = {}

    def rows_at_once(self, plan: Plan) -> int:
        """Rows in a chunk."""
        if self.chunk_size is not None:
            return self.chunk_size
        kind = "cpu" if plan.natural.device.type == "cpu" else "other"
        groups, columns, length = plan.natural.shape
        row = groups * (columns + length + plan.features.num_scratch)
        rows = CHUNK_BYTES[kind] // (row * plan.natural.element_size())
        return max(FEWEST_ROWS, min(MOST_ROWS[kind], rows // 64 * 64))

    def buffers(self, plan: Plan, rows: int) -> Buffers:
        """Buffers for chunks of so many rows, the same ones at every call."""
        key = (plan.natural.shape, plan.natural.dtype, plan.natural.device, rows)
        if key not in self._made:
            # A fit has chunks of one size, and a shorter one at the end of each batch.
            while len(self._made) >= 4:
                self._made.pop(next(iter(self._made)))
            self._made[key] = make_buffers(plan, rows)
        return self._made[key]


def make_buffers(plan: Plan, rows: int) -> Buffers:
    """Buffers of their own."""
    groups, columns, length = plan.natural.shape
    features, make = plan.features, plan.natural.new_empty
    d, q = features.num_features, features.num_terms
    tall = make(groups, length + features.num_scratch, rows)
    tall[:, 0] = 1.0
    fill = features.filler(tall[:, 1 + q :], tall[:, 1 : 1 + q])
    diff, log_joint = make(rows, groups, d), make(groups, columns, rows)
    sums = make(groups, length, columns)
    if groups == 1:
        tall, diff, log_joint, sums = tall[0], diff[:, 0], log_joint[0], sums[0]
    return Buffers(
        diff=diff,
        features=tall[..., :length, :],
        z=tall[..., 1 + q : length, :],
        log_joint=log_joint,
        sums=sums,
        fill=fill,
        multiply=torch.mm if groups == 1 else torch.bmm,
    )

"""Rows grouped by which of their entries are missing, in blocks that are solved side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.distributions.density import MixtureDensity
from gmm_lightning.rows import number_patterns

_OfScale = Callable[[Tensor, Tensor, Tensor], Any]


@dataclass(frozen=True)
class PatternBlocks:
    """Blocks of rows, each of one missingness pattern, all with as many observed entries.

    Short blocks repeat their last row.

    Attributes:
        rows: positions of the rows, `(Q, n)`.
        is_new: False where a row is a repetition, `(Q, n)`.
        cells: the mixture of a batch that each block belongs to, `(Q,)`.
        observed: positions of the observed features, `(Q, I)`.
        missing: positions of the others, `(Q, R)`.
    """

    rows: Tensor
    is_new: Tensor
    cells: Tensor
    observed: Tensor
    missing: Tensor

    def part(self, start: int, end: int) -> PatternBlocks:
        """Some of the blocks."""
        return PatternBlocks(*(getattr(self, f.name)[start:end] for f in fields(self)))

    def select(self, values: Tensor) -> Tensor:
        """Results `(n, Q, ...)` of every row once, in the order of `rows[is_new]`."""
        return values.transpose(0, 1)[self.is_new]

    def values(self, x: Tensor) -> Tensor:
        """The observed entries of rows `(N, D)`, `(n, Q, I)`."""
        return x[self.rows.T.unsqueeze(-1), self.observed]

    def parameters(self, mixture: MixtureDensity) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(Q, K)`, means of the observed and of the missing features, for each block."""
        own = len(mixture.batch_shape)
        logits, means = mixture.mixture_logits, mixture.means
        if own:
            logits, means = (p.flatten(0, own - 1)[self.cells] for p in (logits, means))
        logits = logits.expand(len(self.cells), -1)
        means = means.expand(len(self.cells), *means.shape[-2:])
        parts = (at.unsqueeze(-2).expand(*means.shape[:2], -1) for at in self._places)
        observed, missing = (means.gather(-1, at) for at in parts)
        return logits, observed, missing

    def map_scale(self, function: _OfScale, mixture: MixtureDensity) -> Any:
        """`function(scale, observed, missing)` of every block, one or several `(Q, G, ...)`.

        The methods of a covariance family take the features of one pattern; here they are applied
        to those of all blocks at once.
        """
        own, scale = len(mixture.batch_shape), mixture.scale
        if own:
            scale = scale.flatten(0, own - 1)[self.cells]
        return torch.vmap(function, in_dims=(0 if own else None, 0, 0))(scale, *self._places)

    @property
    def _places(self) -> tuple[Tensor, Tensor]:
        return self.observed, self.missing


def pattern_blocks(x: Tensor, cells: Tensor, mixture: MixtureDensity) -> Iterator[PatternBlocks]:
    """The rows `(N, D)`, NaN where an entry is missing, in blocks whose results fit into memory.

    A block has about as many rows as the patterns of one number of observed entries have on
    average, so that there are at most twice as many rows and blocks as rows and patterns.

    Args:
        x: the rows.
        cells: which mixture of the flattened batch each row belongs to, `(N,)`.
        mixture: the mixture, whose sizes bound a block.
    """
    observed = ~torch.isnan(x)
    which = number_patterns(observed, cells)
    counts, order = which.bincount(), which.argsort(stable=True)
    first = counts.cumsum(0) - counts
    kinds = observed[order[first]]
    number = kinds.sum(-1)
    k, d = mixture.means.shape[-2:]
    groups = mixture.covariance.groups(k)
    for size in number.unique().tolist():
        same = (number == size).nonzero().squeeze(-1)
        rows = counts[same]
        # A row needs means and distances of each component, a block its factors.
        most = rows_per_chunk(4 * k * d, x, in_cache=False)
        length = min(most, -int(-rows.sum() // len(rows)))
        blocks = -(-rows // length)
        kind = same.repeat_interleave(blocks)
        before = (blocks.cumsum(0) - blocks).repeat_interleave(blocks)
        start = first[kind] + length * (torch.arange(len(kind), device=x.device) - before)
        at = start.unsqueeze(-1) + torch.arange(length, device=x.device)
        end = (first + counts)[kind].unsqueeze(-1)
        places = kinds[kind].to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        whole = PatternBlocks(
            order[at.minimum(end - 1)],
            at < end,
            cells[order[first[kind]]],
            places[:, :size],
            places[:, size:],
        )
        chunk = rows_per_chunk(4 * k * d * length + 8 * groups * d * d, x, in_cache=False)
        for part in range(0, len(kind), chunk):
            yield whole.part(part, part + chunk)

"""Where rows come from: memory, or batches that can be read again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gmm_lightning.em.rows import as_rows, as_weights, check_finite, chunks
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import GMMLayer


def is_array(x: Any) -> bool:
    """Whether x is rows in memory rather than an iterable of batches."""
    if isinstance(x, Tensor) or hasattr(x, "__array__"):
        return True
    if isinstance(x, list | tuple):
        first = x[0] if len(x) else 0.0
        if isinstance(first, list | tuple) and len(first):
            first = first[0]
        return not (isinstance(first, Tensor | np.ndarray) and first.ndim >= 2)
    return False


class Source:
    """Rows with their weights, read in order, as often as a fit needs them.

    Args:
        layer: the mixture they are for.
        x: a tensor, an array, or a re-iterable of batches of rows.
        sample_weight: weights for rows in memory.
        chunk_size: rows at a time; None: what stays in cache.

    Raises:
        TypeError: an iterator that can be read only once.
        InvalidArgumentError: a chunk size below 1, or weights for an iterable of batches.
        InvalidDataError: rows of the wrong shape, or not finite (by number), or none at all.
    """

    def __init__(
        self, layer: GMMLayer, x: Any, sample_weight: Any = None, chunk_size: int | None = None
    ) -> None:
        if chunk_size is not None and chunk_size < 1:
            raise InvalidArgumentError(f"chunk_size must be >= 1, got {chunk_size}")
        self.layer, self.chunk_size = layer, chunk_size
        if is_array(x):
            rows = as_rows(layer, x)
            self._batches: Iterable[Any] = [rows]
            self._weight = as_weights(layer, sample_weight, x)
        else:
            if not isinstance(x, Iterable):
                raise TypeError(f"x must be rows or an iterable of batches, got {type(x).__name__}")
            if iter(x) is x:
                raise TypeError(
                    "x is an iterator that can be read only once, and EM reads the data in every "
                    "iteration: pass a list, a DataLoader, or an object whose __iter__ starts anew"
                )
            if sample_weight is not None:
                raise InvalidArgumentError(
                    "sample_weight goes with rows in memory, not with an iterable of batches"
                )
            self._batches, self._weight = x, None
        self.num_rows = 0
        for rows in self.batches():
            check_finite(rows, self.num_rows)
            self.num_rows += rows.shape[0]
        if self.num_rows == 0:
            raise InvalidDataError("there are no rows to fit")

    def batches(self) -> Iterator[Tensor]:
        """Rows `(n, *B, D)`, batch after batch."""
        for batch in self._batches:
            if isinstance(batch, list | tuple) and len(batch) == 1:
                batch = batch[0]
            if isinstance(batch, list | tuple) and not is_array(batch):
                raise InvalidDataError(
                    f"each batch must be rows, or a sequence holding just the rows; got "
                    f"{len(batch)} arrays"
                )
            yield as_rows(self.layer, batch)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Portions in the layer's dtype, with their weights `(n, *B)` or None."""
        for rows in self.batches():
            yield from chunks(self.layer, rows, self._weight, self.chunk_size)

    def sample(self, limit: int, generator: Generator | None) -> tuple[Tensor, Tensor | None]:
        """All rows, or `limit` of them drawn without replacement, in their order."""
        if self.num_rows <= limit:
            return torch.cat(list(self.batches())), self._weight
        device = generator.device if generator is not None else torch.device("cpu")
        drawn = torch.randperm(self.num_rows, generator=generator, device=device)
        drawn = drawn[:limit].sort().values
        parts, start = [], 0
        for rows in self.batches():
            stop = start + rows.shape[0]
            own = drawn[(drawn >= start) & (drawn < stop)] - start
            parts.append(rows[own.to(rows.device)])
            start = stop
        weight = self._weight
        return torch.cat(parts), None if weight is None else weight[drawn.to(weight.device)]

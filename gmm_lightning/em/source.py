"""Where rows come from: memory, or batches that can be read again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gmm_lightning.em.rows import as_rows, as_weights, check_finite, is_shared
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype


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
        x: a tensor, an array, or a re-iterable of batches: rows, or objects with the attributes
            `x` and `weight`.
        sample_weight: weights for rows in memory.

    Attributes:
        num_rows: rows in one reading.
        shared: whether all mixtures of a batch read the same rows.
        in_memory: whether x is one tensor or array.

    Raises:
        TypeError: an iterator that can be read only once.
        InvalidArgumentError: weights for an iterable of batches.
        InvalidDataError: rows of the wrong shape or not finite (by number), bad weights, no rows
            at all, or weights that are all zero.
    """

    def __init__(self, layer: GMMLayer, x: Any, sample_weight: Any = None) -> None:
        self.layer, self.in_memory = layer, is_array(x)
        self._weight: Tensor | None = None
        if self.in_memory:
            self._batches: Iterable[Any] = [as_rows(layer, x)]
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
                    "sample_weight goes with rows in memory; batches of an iterable carry their "
                    "own, as objects with the attributes x and weight"
                )
            self._batches = x
        self.num_rows, self.shared = 0, True
        self.check()

    def check(self) -> None:
        """Read everything once, and refuse what cannot be used.

        Raises:
            InvalidDataError: naming the row, and of an iterable the batch.
        """
        self.num_rows, positive = 0, False
        for number, (rows, weight) in enumerate(self):
            with self._naming(number, self.num_rows):
                check_finite(rows, self.num_rows)
            self.num_rows += rows.shape[0]
            self.shared = self.shared and is_shared(rows)
            positive = positive or (len(rows) > 0 and (weight is None or bool((weight > 0).any())))
        if self.num_rows == 0:
            raise InvalidDataError("there are no rows to fit")
        if not positive:
            raise InvalidDataError("there are no rows to fit: every sample_weight is 0")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Rows `(n, *B, D)` with their weights `(n, *B)` or None, batch after batch."""
        start = 0
        for number, batch in enumerate(self._batches):
            with self._naming(number, start):
                rows, weight = self._batch(batch)
            yield rows, weight
            start += len(rows)

    @contextmanager
    def _naming(self, number: int, start: int) -> Iterator[None]:
        """Say in which batch of an iterable a mistake was found."""
        try:
            yield
        except InvalidDataError as error:
            if self.in_memory:
                raise
            raise InvalidDataError(f"batch {number}, from row {start} on: {error}") from error

    def _batch(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        if self.in_memory:
            return batch, self._weight
        if hasattr(batch, "weight") and hasattr(batch, "x"):
            return as_rows(self.layer, batch.x), as_weights(self.layer, batch.weight, batch.x)
        if isinstance(batch, list | tuple) and len(batch) == 1:
            batch = batch[0]
        if isinstance(batch, list | tuple) and not is_array(batch):
            raise InvalidDataError(
                f"each batch must be rows, or a sequence holding just the rows; got "
                f"{len(batch)} arrays"
            )
        return as_rows(self.layer, batch), None

    def sample(self, limit: int, generator: Generator | None) -> tuple[Tensor, Tensor | None]:
        """All rows, or `limit` of them drawn without replacement, in their order."""
        if self.num_rows <= limit:
            parts, weights = zip(*self, strict=True)
            return torch.cat(parts), joined(self.layer, parts, weights)
        drawn = some_of(self.num_rows, limit, generator)
        rows: Tensor | None = None
        weight: Tensor | None = None
        start = 0
        for x, w in self:
            low, high = torch.searchsorted(drawn, torch.tensor([start, start + len(x)])).tolist()
            own = (drawn[low:high] - start).to(x.device)
            if rows is None:
                # Filled in place: small pieces kept between large blocks would break up the heap.
                # Batches need not be of one dtype.
                dtype = x.dtype if self.in_memory else accumulator_dtype(x.device)
                rows = x.new_empty(limit, *x.shape[1:], dtype=dtype)
            rows[low:high] = x[own]
            if w is not None:
                if weight is None:
                    weight = w.new_ones(limit, *w.shape[1:])
                weight[low:high] = w[own.to(w.device)]
            start += len(x)
        assert rows is not None
        return rows, weight


def some_of(count: int, limit: int, generator: Generator | None) -> Tensor:
    """Sorted numbers in `[0, count)`, so many of them, without replacement."""
    device = generator.device if generator is not None else torch.device("cpu")
    if count <= 4 * limit:
        drawn = torch.randperm(count, generator=generator, device=device)[:limit]
    else:
        # Twice as many with replacement: at least `limit` differ, as surely as anything.
        found = torch.randint(count, (2 * limit,), generator=generator, device=device).unique()
        order = torch.randperm(len(found), generator=generator, device=device)
        drawn = found[order[:limit]]
    return drawn.sort().values.cpu()


def joined(
    layer: GMMLayer, parts: Sequence[Tensor], weights: Sequence[Tensor | None]
) -> Tensor | None:
    """The weights of all batches, 1 where a batch has none; None where no batch has any."""
    like = next((weight for weight in weights if weight is not None), None)
    if like is None:
        return None
    given = [
        like.new_ones(len(rows), *layer.batch_shape) if weight is None else weight
        for rows, weight in zip(parts, weights, strict=True)
    ]
    return torch.cat(given)

"""Rows on their way into EM: conversion, weights, chunks, and the checks that name a row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.layers import GMMLayer

# Elements of one chunk of differences (rows x K x D): a few MB stay in cache on a CPU, while a
# GPU wants large launches.
CHUNK_ELEMENTS = {"cpu": 1 << 18, "other": 1 << 25}


def as_tensor(x: Any, what: str = "x") -> Tensor:
    """A tensor over the same memory where possible: from a tensor, an array, or nested lists."""
    if isinstance(x, Tensor):
        tensor = x
    else:
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise InvalidDataError(f"{what} must be a rectangular array: {error}") from None
        if array.dtype.kind not in "fiub":
            raise InvalidDataError(
                f"{what} must hold numbers, got an array of dtype {array.dtype} "
                f"and shape {array.shape}"
            )
        if array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        elif not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if any(stride < 0 for stride in array.strides):
            array = array.copy()
        with warnings.catch_warnings():
            # A read-only array is fine: nothing here writes into rows.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(array)
    if tensor.is_complex():
        raise InvalidDataError(f"{what} must hold real numbers, got dtype {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise InvalidDataError(f"{what} must be dense, got layout {tensor.layout}; call to_dense()")
    return tensor


def as_rows(layer: GMMLayer, x: Any) -> Tensor:
    """Rows `(N, *B, D)` with the sample dimensions flattened; B may be broadcast as ones.

    Raises:
        InvalidDataError: the wrong number of features or of dimensions.
    """
    x = as_tensor(x)
    lead = x.dim() - 1 - len(layer.batch_shape)
    if x.dim() == 0 or x.shape[-1] != layer.num_features or lead < 1:
        hint = ""
        if x.dim() == 1:
            hint = "; reshape one feature with x[:, None], or one row with x[None, :]"
        elif layer.batch_shape and lead < 1:
            axes = "None, " * len(layer.batch_shape)
            hint = f"; share the same rows over the batch with x[:, {axes}:]"
        expected = ", ".join(["N", *map(str, layer.batch_shape), str(layer.num_features)])
        raise InvalidDataError(
            f"expected rows of shape ({expected}), got an array of shape {tuple(x.shape)}{hint}"
        )
    rows = x.reshape(-1, *x.shape[lead:])
    for own, given in zip(layer.batch_shape, rows.shape[1:-1], strict=True):
        if given not in (1, own):
            raise InvalidDataError(
                f"the batch dimensions of x, {tuple(rows.shape[1:-1])}, do not fit the layer's "
                f"batch_shape {tuple(layer.batch_shape)}"
            )
    return rows


def is_shared(rows: Tensor) -> bool:
    """Whether all mixtures of a batch read the same rows `(N, *B, D)`."""
    return all(size == 1 for size in rows.shape[1:-1])


def as_weights(layer: GMMLayer, sample_weight: Any, x: Any) -> Tensor | None:
    """Weights `(N, *B)` of rows x `(*S, *B, D)`, broadcast from what was given; None stays None.

    Raises:
        InvalidDataError: a shape that does not fit, or weights that are negative or not finite.
    """
    if sample_weight is None:
        return None
    weight = as_tensor(sample_weight, "sample_weight").to(layer.means.dtype)
    lead = as_tensor(x).dim() - 1 - len(layer.batch_shape)
    shape = (*as_tensor(x).shape[:lead], *layer.batch_shape)
    try:
        flat = weight.expand(shape).reshape(-1, *layer.batch_shape)
    except RuntimeError:
        raise InvalidDataError(
            f"sample_weight must broadcast to {shape}, got shape {tuple(weight.shape)}"
        ) from None
    bad = ~torch.isfinite(flat) | (flat < 0)
    if bool(bad.any()):
        raise InvalidDataError(
            f"sample_weight must be finite and >= 0; it is not in row(s) {_named(bad)}"
        )
    return flat


def check_finite(rows: Tensor, first_row: int = 0) -> None:
    """Refuse rows with NaN or infinity, by number.

    Raises:
        InvalidDataError: naming up to ten rows, counted from `first_row`.
    """
    if not rows.is_floating_point():
        return
    # One pass without a mask: a sum is finite only if every term is (or it overflows, and then
    # the mask decides).
    if bool(torch.isfinite(rows.sum())):
        return
    bad = ~torch.isfinite(rows)
    if bool(bad.any()):
        raise InvalidDataError(
            f"x has NaN or infinite entries in row(s) {_named(bad, first_row)}; drop them, or fit "
            "the others and fill them in with gmm_lightning.distributions.impute"
        )


def _named(bad: Tensor, first_row: int = 0) -> str:
    index = bad.reshape(bad.shape[0], -1).any(-1).nonzero().squeeze(-1)
    named = ", ".join(str(int(i) + first_row) for i in index[:10])
    return named + (f" and {len(index) - 10} more" if len(index) > 10 else "")


def chunks(
    layer: GMMLayer,
    rows: Tensor,
    weight: Tensor | None,
    chunk_size: int | None = None,
    *,
    components: int | None = None,
    units: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Portions of rows in the layer's dtype and on its device, with their weights.

    Their size lets the differences to so many components stay in cache; None: to the layer's.
    """
    if chunk_size is None:
        kind = "cpu" if layer.means.device.type == "cpu" else "other"
        per_row = layer.means.numel() // layer.num_components
        per_row *= components or layer.num_components
        chunk_size = max(1, CHUNK_ELEMENTS[kind] // per_row)
    for start in range(0, rows.shape[0], chunk_size):
        part = slice(start, start + chunk_size)
        x = rows[part]
        yield (
            (x if units is None else units(x)).to(layer.means),
            None if weight is None else weight[part].to(layer.means.device),
        )

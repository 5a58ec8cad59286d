"""Users' rows and weights as tensors, with checks of shape and finiteness."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor

from gmm_lightning._messages import format_list, format_rows
from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_weights
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows.arrays import as_array


def as_tensor(x: Any, name: str = "x") -> Tensor:
    """A tensor over the same memory where possible.

    Args:
        x: a tensor, a numpy array, nested lists, or a table or a column of pandas, polars or
            Arrow. What is masked or missing is NaN.
        name: of x, for the message.

    Raises:
        InvalidDataError: not a dense, rectangular array of real numbers.

    Example:
        >>> as_tensor(np.ma.masked_array([1.0, 2.0], [False, True]))
        tensor([1., nan], dtype=torch.float64)
    """
    tensor = as_dense(x, torch.device("cpu"), name)
    # torch cannot add up numbers of one byte.
    is_small = tensor.is_floating_point() and tensor.element_size() == 1
    return tensor.float() if is_small else tensor


def as_dense(x: Any, device: torch.device, name: str = "x") -> Tensor:
    """Rows as a dense tensor: a tensor as it is, anything else as `as_tensor`, on a device.

    Raises:
        InvalidDataError: as for `as_tensor`.
    """
    if not isinstance(x, Tensor):
        return _tensor_from_numpy(as_array(x, name)).to(device)
    if x.is_complex():
        raise InvalidDataError(
            f"{name} must hold real numbers, got dtype {x.dtype}; take real and imaginary parts as "
            "two features"
        )
    if x.layout != torch.strided or x.is_nested:
        layout = "a nested tensor" if x.is_nested else f"layout {x.layout}"
        remedy = "torch.nested.to_padded_tensor" if x.is_nested else "to_dense()"
        raise InvalidDataError(f"{name} must be dense, got {layout}; call {remedy}")
    if x.is_meta and device.type != "meta":
        raise InvalidDataError(
            f"{name} must hold numbers, got a tensor on the meta device, which has none; give it "
            "values with to_empty, or make it elsewhere"
        )
    if x.is_quantized:
        raise InvalidDataError(f"{name} must hold numbers, got {x.dtype}; call dequantize()")
    return x


def _tensor_from_numpy(array: np.ndarray) -> Tensor:
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        # torch cannot index the wider unsigned integers before 2.7.
        array = array.astype(np.int64 if array.dtype.itemsize < 8 else np.float64)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # A read-only array is fine: nothing here writes into rows.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def as_rows(x: Any, num_features: int, batch_shape: Size) -> Tensor:
    """Rows `(N, *B, D)` with the sample dimensions flattened; B may be broadcast as ones.

    Raises:
        InvalidDataError: the wrong number of features or of dimensions.
    """
    x = as_tensor(x)
    lead = x.dim() - 1 - len(batch_shape)
    if x.dim() == 0 or x.shape[-1] != num_features or lead < 1:
        hint = "; rows go along the first axis, features along the last one"
        if x.dim() == 1:
            hint = (
                "; one feature is x.reshape(-1, 1), or table[[name]]; one row is x.reshape(1, -1)"
            )
        elif batch_shape and lead < 1:
            axes = "None, " * len(batch_shape)
            hint = f"; share the same rows over the batch with x[:, {axes}:]"
        expected = ", ".join(["N", *map(str, batch_shape), str(num_features)])
        raise InvalidDataError(
            f"expected rows of shape ({expected}), got an array of shape {tuple(x.shape)}{hint}"
        )
    rows = x.reshape(-1, *x.shape[lead:])
    if any(n not in (1, b) for b, n in zip(batch_shape, rows.shape[1:-1], strict=True)):
        raise InvalidDataError(
            f"the batch dimensions of x, {tuple(rows.shape[1:-1])}, do not fit the layer's "
            f"batch_shape {tuple(batch_shape)}"
        )
    return rows


def as_weights(sample_weight: Any, x: Any, batch_shape: Size) -> Tensor | None:
    """Weights `(N, *B)` of rows x `(*S, *B, D)`, broadcast from `sample_weight`; None for None.

    Raises:
        InvalidDataError: a shape that does not fit, or weights that are negative or not finite.
    """
    if sample_weight is None:
        return None
    weight = as_tensor(sample_weight, "sample_weight")
    weight = weight if weight.is_floating_point() else weight.double()
    x = as_tensor(x)
    shape = (*x.shape[: x.dim() - 1 - len(batch_shape)], *batch_shape)
    try:
        flat = weight.expand(shape).reshape(-1, *batch_shape)
    except RuntimeError:
        raise InvalidDataError(
            f"sample_weight must broadcast to {shape}, got shape {tuple(weight.shape)}"
        ) from None
    return require_weights(flat)


def check_finite(
    rows: Tensor, first_row: int = 0, columns: Sequence[str] = (), *, missing: str | None = None
) -> None:
    """Check that rows `(N, ..., D)` have neither NaN nor infinity.

    Args:
        rows: the rows.
        first_row: number of the first one.
        columns: names of the features, if they have names.
        missing: `em`: NaN is allowed.

    Raises:
        InvalidDataError: they do; the message gives the numbers of the rows, and the columns.
    """
    # One pass without a mask: a sum is finite only if every term is (or it overflows, and then
    # the mask decides).
    if not rows.is_floating_point() or value_of(torch.isfinite(rows.sum())) is not False:
        return
    bad = ~torch.isfinite(rows) if missing is None else rows.isinf()
    if bool(bad.any()):
        where = f"row(s) {format_rows(bad, first_row)}"
        if columns:
            features = bad.reshape(-1, bad.shape[-1]).any(0).nonzero().squeeze(-1).tolist()
            where += f" of column(s) {format_list(repr(columns[i]) for i in features)}"
        if missing is not None:
            raise InvalidDataError(
                f"x has infinite entries in {where}; drop these rows, or mark the entries as NaN"
            )
        raise InvalidDataError(
            f"x has missing (NaN or masked) or infinite entries in {where}; drop them, or let "
            'fit_em(missing="em") fit to the entries that are there'
        )


def finite_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows `(N, ...)` without NaN or infinity, and the number of dropped rows.

    Example:
        >>> finite_rows(torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]))
        (tensor([[0., 1.]]), 1)
    """
    good = torch.isfinite(rows).flatten(1).all(-1)
    dropped = int((~good).sum())
    return (rows[good], dropped) if dropped else (rows, 0)

"""Words of messages: values, lists and rows in one line of bounded length."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from reprlib import repr as short
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.errors import printable

# Characters of a described value.
_LONGEST = 80


def describe(value: Any) -> str:
    """A value in a few words on one line, for a message: of an array the type, shape and dtype.

    Example:
        >>> describe(torch.zeros(2, 3)), describe([0.5, "a"])
        ('Tensor of shape (2, 3) and dtype torch.float32', "[0.5, 'a']")
    """
    shape = getattr(value, "shape", ())
    if shape and isinstance(shape, tuple):
        dtype = f" and dtype {value.dtype}" if hasattr(value, "dtype") else ""
        return f"{type(value).__name__} of shape {tuple(shape)}{dtype}"
    text = " ".join(short(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def format_list(values: Iterable[Any], limit: int = 10) -> str:
    """The first `limit` values as printable text, and the number of the others.

    Example:
        >>> format_list(range(12))
        '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    others = iter(values)
    listed = ", ".join(printable(value) for value in islice(others, limit))
    more = sum(1 for _ in others)
    return listed + (f" and {more} more" if more else "")


def format_value(value: Any) -> str:
    """The shape of a tensor, or the type of anything else and how to make a tensor of it.

    Example:
        >>> format_value(torch.zeros(2, 3)), format_value([1.0])
        ('shape (2, 3)', 'list; write torch.as_tensor(...)')
    """
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}"
    return f"{type(value).__name__}; write torch.as_tensor(...)"


def format_error(error: BaseException) -> str:
    r"""The message of an error in one line of bounded length, or its type.

    Example:
        >>> format_error(ValueError("a wrong\n  value"))
        'a wrong value'
    """
    return printable(shorten(str(error), 300, placeholder=" ...")) or type(error).__name__


def format_too_large(what: str, dtype: torch.dtype) -> str:
    """That numbers overflow in a dtype, and what to do.

    Example:
        >>> format_too_large("the rows are", torch.float64)
        'the rows are too large for torch.float64; divide them by a constant'
    """
    other = "" if dtype == torch.float64 else ", or use float64"
    return f"{what} too large for {dtype}; divide them by a constant{other}"


def format_rows(bad: Tensor, first_row: int = 0) -> str:
    """The numbers of the rows with a True in a mask `(N, ...)`, for a message.

    Args:
        bad: the mask.
        first_row: number of its first row.

    Example:
        >>> format_rows(torch.tensor([False, True, True]), first_row=10)
        '11, 12'
    """
    rows = bad.reshape(bad.shape[0], -1).any(-1).nonzero().squeeze(-1)
    return format_list((rows + first_row).tolist())


def count_rows(number: int) -> str:
    """A number of rows in words: `1 row`, `2 rows`."""
    return f"{number} row{'s' if number != 1 else ''}"


def unformatted(text: object) -> str:
    r"""A text that a picture shows as it is: between two dollars it would be a formula.

    Example:
        >>> print(unformatted("price in $"))
        price in \$
    """
    return str(text).replace("$", r"\$")

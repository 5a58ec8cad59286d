"""Checks of arguments, and messages that say what was expected and what was given."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from itertools import islice
from reprlib import repr as short
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError, printable

# Characters of a value in a message.
_LONGEST = 80


def is_tracing() -> bool:
    """Whether operations are being traced, compiled or exported, to run again with other rows."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return torch.compiler.is_compiling() or tracing


def value_of(scalar: Tensor) -> Any:
    """The Python number in a tensor `()`, or None where values cannot be looked at.

    That is in graphs that are traced, compiled or exported, on the meta device, in fake tensors
    and under `torch.func.vmap`. There, values are not checked, and shapes are.

    Example:
        >>> mask = torch.tensor([True, False])
        >>> value_of(mask.all()), value_of(mask.all().to("meta"))
        (False, None)
    """
    if is_tracing():
        return None
    try:
        return scalar.item()
    except RuntimeError:
        return None


def is_transformed(*tensors: Tensor | None) -> bool:
    """Whether `torch.func` transforms any of the tensors, or they carry forward derivatives.

    Example:
        >>> torch.func.vmap(lambda x: x if is_transformed(x) else -x)(torch.ones(2))
        tensor([1., 1.])
    """
    return any(
        torch.func.debug_unwrap(x) is not x or forward_ad.unpack_dual(x).tangent is not None
        for x in tensors
        if x is not None
    )


def is_number(value: Any) -> bool:
    """Whether a value is a real number that a float can hold, and not NaN; a boolean is none."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or getattr(value, "ndim", 0):
        return False
    try:
        return not math.isnan(float(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def require_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> float:
    """A finite number in a range, as a float.

    Args:
        name: name of the argument, for the message.
        value: the given value.
        above: exclusive lower bound.
        least: inclusive lower bound.
        most: inclusive upper bound.

    Raises:
        InvalidArgumentError: anything else.

    Example:
        >>> require_number("tol", 1, least=0)
        1.0
    """
    number = float(value) if is_number(value) else math.nan
    limits = {">": (above, operator.gt), ">=": (least, operator.ge), "<=": (most, operator.le)}
    asked = {sign: (end, holds) for sign, (end, holds) in limits.items() if end is not None}
    if not (math.isfinite(number) and all(holds(number, end) for end, holds in asked.values())):
        bounds = " and ".join(f"{sign} {end:g}" for sign, (end, _) in asked.items())
        expected = f"a finite number {bounds}".rstrip()
        raise InvalidArgumentError(f"{name} must be {expected}, got {describe(value)}")
    return number


def require_integer(name: str, value: Any, *, least: int) -> int:
    """An integer that is at least `least`, as an int.

    Raises:
        InvalidArgumentError: anything else, a boolean included.

    Example:
        >>> require_integer("num_samples", 10, least=2)
        10
    """
    try:
        number = least - 1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = least - 1
    # An index is at most an int64.
    if not least <= number < 2**63:
        raise InvalidArgumentError(f"{name} must be an integer >= {least}, got {describe(value)}")
    return number


def as_generator(generator: Any, device: torch.device | str = "cpu") -> Generator | None:
    """A generator from a seed; a generator and None, torch's global one, stay as they are.

    Args:
        generator: the given value; an integer is a seed, from 0 to 2^63 - 1.
        device: of the generator that a seed starts.

    Raises:
        InvalidArgumentError: anything else, a boolean included.

    Example:
        >>> torch.rand(1, generator=as_generator(0)) == torch.rand(1, generator=as_generator(0))
        tensor([True])
    """
    if generator is None or isinstance(generator, Generator):
        return generator
    try:
        seed = require_integer("generator", generator, least=0)
    except InvalidArgumentError:
        raise InvalidArgumentError(
            "generator must be a torch.Generator, a seed (an integer >= 0) or None, got "
            f"{short(generator)}"
        ) from None
    return Generator(device).manual_seed(seed)


def require_numbers(name: str, value: Any, like: Tensor) -> Tensor:
    """Numbers of any shape as a tensor, of the dtype and on the device of another.

    Raises:
        InvalidArgumentError: anything else.
    """
    try:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidArgumentError(f"expected {name} as numbers, got {describe(value)}") from None


def require_choice(name: str, value: Any, known: Iterable[str], *, also: str = "") -> str:
    """The value, checked to be one of the known words.

    Args:
        name: what the word chooses, for the message.
        value: the given value.
        known: the words, in the order to list them.
        also: other allowed values, for the message.

    Raises:
        InvalidArgumentError: anything else; the message lists the words.

    Example:
        >>> require_choice("policy", "floor", ("floor", "raise"))
        'floor'
    """
    words = list(known)
    if not isinstance(value, str) or value not in words:
        raise InvalidArgumentError(
            f"unknown {name} {describe(value)}; known are: {', '.join(words)}{also}"
        )
    return value


def require_tensor(name: str, value: Any) -> Tensor:
    """The value, checked to be a tensor.

    Raises:
        InvalidArgumentError: anything else.
    """
    if not isinstance(value, Tensor):
        raise InvalidArgumentError(f"expected {name} as a tensor, got {describe(value)}")
    return value


def require_bool(name: str, value: Any) -> bool:
    """The value, checked to be True or False.

    Raises:
        InvalidArgumentError: anything else.
    """
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be True or False, got {describe(value)}")
    return value


def require_function(name: str, value: Any) -> Callable[..., Any]:
    """The value, checked to be callable.

    Raises:
        InvalidArgumentError: anything else.
    """
    if not callable(value):
        raise InvalidArgumentError(f"{name} must be a function, got {describe(value)}")
    return value


def values_are_readable(*tensors: Tensor) -> bool:
    """Whether a program may look at the values of tensors: see `value_of`.

    Example:
        >>> values_are_readable(torch.zeros(2)), values_are_readable(torch.zeros(2, device="meta"))
        (True, False)
    """
    # An empty sum takes no time, and is handed over where its terms would be.
    return all(value_of(t.detach().reshape(-1)[:0].sum()) is not None for t in tensors)


def require_readable(what: str, *tensors: Tensor) -> None:
    """Refuse what needs to look at the values of tensors where it cannot.

    A graph that is traced or compiled breaks at such a place, with a message of its own.

    Raises:
        InvalidArgumentError: the values are hidden; the message begins with `what`.
    """
    if not (is_tracing() or values_are_readable(*tensors)):
        raise InvalidArgumentError(
            f"{what} need values, which vmap and meta and fake tensors hide: make them outside, "
            "for a batch of mixtures"
        )


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


def format_error(error: BaseException) -> str:
    r"""The message of an error in one line of bounded length, or its type.

    Example:
        >>> format_error(ValueError("a wrong\n  value"))
        'a wrong value'
    """
    return printable(shorten(str(error), 300, placeholder=" ...")) or type(error).__name__


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


def require_weights(weight: Tensor, name: str = "sample_weight", first_row: int = 0) -> Tensor:
    """Weights of rows `(N, ...)`, checked to be finite and not negative.

    Raises:
        InvalidDataError: they are not; the message names the rows.
    """
    bad = ~torch.isfinite(weight) | (weight < 0)
    if value_of(bad.any()):
        raise InvalidDataError(
            f"{name} must be finite and >= 0; it is not in row(s) {format_rows(bad, first_row)}"
        )
    return weight


def count_rows(number: int) -> str:
    """A number of rows in words: `1 row`, `2 rows`."""
    return f"{number} row{'s' if number != 1 else ''}"


def require_enough_rows(num_rows: int, num_components: int) -> None:
    """Refuse fewer rows than components.

    Raises:
        InvalidDataError: the message says how many there are.
    """
    if num_rows < num_components:
        hint = "take fewer components or more rows"
        if num_rows == 1:
            hint += " (rows go along the first axis of an array, and one on each line of a file)"
        raise InvalidDataError(
            f"there {'is' if num_rows == 1 else 'are'} {count_rows(num_rows)} to fit, and a "
            f"mixture of num_components={num_components} needs at least {num_components}: {hint}"
        )

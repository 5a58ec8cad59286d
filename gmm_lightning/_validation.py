"""Checks of arguments: an error says what was expected and what came."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gmm_lightning._messages import count_rows, describe, format_rows
from gmm_lightning._tracing import value_of
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


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
            f"{describe(generator)}"
        ) from None
    return Generator(device).manual_seed(seed)


def as_device(device: Any) -> torch.device:
    """A device that holds numbers, of a name or a `torch.device`.

    Raises:
        InvalidArgumentError: none of torch's devices, one that this machine lacks, or `meta`.
    """
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError):
        raise InvalidArgumentError(
            f"device must be one that this machine has, such as 'cpu', got {describe(device)}"
        ) from None
    if device.type == "meta":
        raise InvalidArgumentError("device must hold numbers, and 'meta' has none: take 'cpu'")
    return device


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

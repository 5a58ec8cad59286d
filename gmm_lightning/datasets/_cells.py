"""What a single cell says: a number, nothing, or a class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Compared without regard to case.
MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "?", "-"})
# Classes may well be called "-" or "none".
UNLABELLED = MISSING - {"-", "none"}
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def number(cell: str) -> float | None:
    """The value of a cell, or None; `1_000` is a number to Python but to no other program."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def is_missing(cell: str) -> bool:
    """Whether a stripped cell stands for a value that is not there."""
    return cell.lower() in MISSING


def is_unlabelled(value: Any) -> bool:
    """Whether a label is not there."""
    return value is None or str(value).strip().lower() in UNLABELLED


def mostly_numeric(cells: Iterable[str]) -> bool:
    """Whether at least half of the cells that are there are numbers (and one is)."""
    there = [cell for cell in cells if not is_missing(cell)]
    numbers = sum(number(cell) is not None for cell in there)
    return numbers > 0 and 2 * numbers >= len(there)


def encode(values: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as codes `0 .. len(classes) - 1`, with the classes in order.

    Numbers are sorted as such and `1` and `1.0` are one class; anything else is sorted as text.

    Example:
        >>> codes, classes = encode(["10", "9", "10"])
        >>> codes.tolist(), classes
        ([1, 0, 1], ('9', '10'))
    """
    text = {value: str(value).strip() for value in set(values)}
    keys: dict[Any, Any] = {value: _exact(word) for value, word in text.items()}
    if any(key is None for key in keys.values()):
        keys = text
    names: dict[Any, str] = {}
    for value, key in keys.items():
        word = text[value].removesuffix(".0") if keys is not text else text[value]
        names[key] = min(names.get(key, word), word, key=lambda w: (len(w), w))
    order = sorted(names)
    code = {key: i for i, key in enumerate(order)}
    of_value = {value: code[key] for value, key in keys.items()}
    codes = np.fromiter((of_value[value] for value in values), np.int64, len(values))
    return codes, tuple(names[key] for key in order)


def _exact(word: str) -> Decimal | None:
    """A label as a number without rounding, so that long identifiers stay apart."""
    try:
        value = None if "_" in word else Decimal(word)
    except InvalidOperation:
        return None
    return value if value is not None and value.is_finite() else None


def listed(names: Iterable[object], limit: int = 20) -> str:
    """Names separated by commas, the first `limit` of them."""
    words = [str(name) for name in names]
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more

"""Values of single cells: numbers, missing values and labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.errors import InvalidDataError

# Compared without regard to case.
_MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "?", "-"})
# Classes may be called "-" or "none".
_UNLABELLED = _MISSING - {"-", "none"}
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def parse_number(cell: str) -> float | None:
    """The value of a cell, or None; `1_000` is a number in Python only, and refused."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def is_missing(cell: str) -> bool:
    """Whether a stripped cell means a missing value."""
    return cell.lower() in _MISSING


def _is_missing_label(value: Any) -> bool:
    """Whether a label is missing."""
    return value is None or str(value).strip().lower() in _UNLABELLED


def is_mostly_numeric(cells: Iterable[str]) -> bool:
    """Whether at least half of the cells that are not missing are numbers (and one is)."""
    present = [cell for cell in cells if not is_missing(cell)]
    numbers = sum(parse_number(cell) is not None for cell in present)
    return numbers > 0 and 2 * numbers >= len(present)


def encode_labels(values: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as codes `0 .. len(classes) - 1`, -1 where one is missing, and the classes in order.

    Numbers are sorted as such and `1` and `1.0` are one class; anything else is sorted as text.

    Example:
        >>> codes, classes = encode_labels(["10", "9", "", "10"])
        >>> codes.tolist(), classes
        ([1, 0, -1, 1], ('9', '10'))
    """
    words = {value: str(value).strip() for value in set(values) if not _is_missing_label(value)}
    keys: dict[Any, Any] = {value: _exact_number(word) for value, word in words.items()}
    numeric = None not in keys.values()
    keys = keys if numeric else words
    names: dict[Any, str] = {}
    for value, key in keys.items():
        word = words[value].removesuffix(".0") if numeric else words[value]
        names[key] = min(names.get(key, word), word, key=lambda w: (len(w), w))
    code = {key: i for i, key in enumerate(sorted(names))}
    found = {value: code[key] for value, key in keys.items()}
    codes = np.fromiter((found.get(value, -1) for value in values), np.int64, len(values))
    return codes, tuple(names[key] for key in code)


def require_classes(classes: Sequence[str], path: Path, label: str) -> None:
    """Refuse a column of labels without any label.

    Raises:
        InvalidDataError: the message names the column.
    """
    if not classes:
        raise InvalidDataError(
            f"{path}: no row has a label in column {label}; name another column, or none"
        )


def _exact_number(word: str) -> Decimal | None:
    """A label as an exact number, so that long identifiers stay distinct; None if it is text."""
    try:
        value = None if "_" in word else Decimal(word)
    except InvalidOperation:
        return None
    return value if value is not None and value.is_finite() else None

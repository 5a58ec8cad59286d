"""Exceptions: every error that a user can cause derives from `GMMError`."""

from __future__ import annotations

import re
from typing import Any

# What allocators of torch say, where they raise no MemoryError.
_MEMORY = re.compile(
    "can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed"
    "|numel: integer multiplication overflow|Invalid buffer size"
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had.

    Example:
        >>> lacks_memory(RuntimeError("CUDA out of memory."))
        True
    """
    raised_by_torch = isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None
    return raised_by_torch or isinstance(error, MemoryError)


def printable(text: Any) -> str:
    r"""Text with its control characters escaped: names in files reach terminals and logs.

    Example:
        >>> printable("width\x1b[2J")
        'width\\x1b[2J'
    """
    words = str(text)
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


class GMMError(Exception):
    """Base class: one printable sentence for the user, never a bug of the library."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InvalidArgumentError(GMMError, ValueError):
    """An argument has the wrong value: the message names the expected and the given one."""


class NoClosedFormError(GMMError, NotImplementedError):
    """A quantity of mixtures without a formula: the message names its estimators."""


class InvalidDataError(GMMError, ValueError):
    """The rows cannot be used: wrong width, no rows, or non-finite entries (named by row)."""


class CollapseError(GMMError, RuntimeError):
    """A component lost its points or its volume, and the policy was to raise."""


class UnresolvedPriorError(GMMError, RuntimeError):
    """A prior has hyper-parameters that follow from data it has not seen yet."""


class UnresolvedNoiseError(GMMError, RuntimeError):
    """The noise of a mixture has a density that follows from data it has not seen yet."""


class CheckpointError(GMMError, RuntimeError):
    """A checkpoint or run folder that is truncated, foreign, in use, gone, or refused as unsafe."""


class RegionError(GMMError, RuntimeError):
    """Draws within a region were not found: no mass, or too little for the budget of draws."""

"""Exceptions: every error that a user can cause derives from `GMMError`."""

from __future__ import annotations


class GMMError(Exception):
    """Base class: one sentence for the user, never a bug of the library."""


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


class CheckpointError(GMMError, RuntimeError):
    """A checkpoint or run folder that is truncated, foreign, in use, gone, or refused as unsafe."""


class RegionError(GMMError, RuntimeError):
    """Draws within a region were not found: no mass, or too little for the budget of draws."""

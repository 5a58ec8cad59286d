"""Plain values, as files hold them: read by commands before anything heavy is imported."""

from __future__ import annotations

from typing import Any

from gmm_lightning.errors import InvalidArgumentError


def require_plain(value: Any) -> None:
    """Refuse anything but texts, numbers, None, and lists and mappings by text of them.

    Raises:
        InvalidArgumentError: the message names the type of what is none of them.
        RecursionError: they are nested too deeply.
    """
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        parts = list(value.values())
    elif isinstance(value, list):
        parts = value
    elif value is None or isinstance(value, bool | int | float | str):
        return
    else:
        raise InvalidArgumentError(f"expected names and numbers, got {type(value).__name__}")
    for part in parts:
        require_plain(part)

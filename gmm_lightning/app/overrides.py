"""Values between Hydra's quotes: one way in, one way out, for any characters."""

from __future__ import annotations

import re


def quoted(value: object) -> str:
    r"""A value as a quoted Hydra value, read back as the same text whatever its characters.

    Between quotes a backslash stands for itself unless a quote follows it.

    Example:
        >>> print(quoted("it's a\\b"))
        'it\'s a\b'
    """
    text = re.sub(r"(\\*)('|\Z)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), str(value))
    return f"'{text}'"


def unquoted(value: str) -> str:
    r"""The text of a value that may stand between quotes.

    Example:
        >>> print(unquoted("'it\\'s'"), unquoted("it's"))
        it's it's
    """
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    return re.sub(
        rf"(\\+)({value[0]}|\Z)",
        lambda end: end[1][: len(end[1]) // 2] + end[2],
        value[1:-1],
    )

"""Command-line options of the examples: the two that all have, and types that check values."""

from __future__ import annotations

import math
import os
from argparse import (
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    ArgumentTypeError,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable
from pathlib import Path

# Seeds of consecutive runs must stay below 2^32, the limit of NumPy.
MAX_SEED = 2**31


class HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows the description as it is written, and the default of every option."""


def example_parser(name: str, description: str | None) -> ArgumentParser:
    """A parser with the options `--output` and `--seed`.

    Args:
        name: name of the script without `.py`.
        description: text above the options, usually the docstring of the script.
    """
    parser = ArgumentParser(f"{name}.py", description=description, formatter_class=HelpFormatter)
    parser.add_argument(
        "--output",
        type=writable_folder,
        default=f"outputs/examples/{name}",
        metavar="FOLDER",
        help="folder of the figures",
    )
    parser.add_argument("--seed", type=integer(0, MAX_SEED), default=0, help="random seed")
    return parser


def integer(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Type of an option: an integer from `least` to `most`."""
    expected = f"an integer >= {least}" if most == math.inf else f"an integer in [{least}, {most}]"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return convert


def positive_number(text: str) -> float:
    """Type of an option: a finite number > 0."""
    return _number(text, "a number > 0", math.inf)


def fraction(text: str) -> float:
    """Type of an option: a number strictly between 0 and 1."""
    return _number(text, "a number between 0 and 1", 1.0)


def writable_folder(text: str) -> Path:
    """Type of an option: a folder that exists or can be made. It is not made here."""
    folder = Path(text)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ArgumentTypeError(f"expected a folder, got {text!r}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ArgumentTypeError(f"expected a folder, got {text!r}: no permission to write there")
    return folder


def _number(text: str, expected: str, limit: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < limit:
        raise ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value

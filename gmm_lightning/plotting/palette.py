"""Colours that people with any common colour-vision deficiency can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

from gmm_lightning._validation import require_integer

INK = "#333333"
PAPER_GREY = "#8C8C8C"
# The hues of Okabe and Ito, without black (kept for text and totals) and without yellow (an outline
# in yellow cannot be seen on white paper).
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def palette(num_colors: int) -> tuple[str, ...]:
    """The first `num_colors` colours of the default palette, as `#RRGGBB`.

    Six hues come first, then their dark and their light shades, which differ in lightness and so
    remain distinct without colour vision; after eighteen colours the sequence repeats.

    Raises:
        InvalidArgumentError: `num_colors` is negative.

    References:
        Okabe and Ito (2008), Color universal design. https://jfly.uni-koeln.de/color/

    Example:
        >>> from gmm_lightning.plotting import palette
        >>> palette(3)
        ('#0072B2', '#D55E00', '#009E73')
    """
    num_colors = require_integer("num_colors", num_colors, least=0)
    hues = rgb_of(_HUES)
    colors = np.concatenate([hues, 0.55 * hues, 0.55 * hues + 0.45])
    return tuple(to_hex(colors[i % len(colors)]).upper() for i in range(num_colors))


def rgb_of(colors: Sequence[str]) -> NDArray[np.float64]:
    """Colours as numbers `(K, 3)` in [0, 1]."""
    return np.array([to_rgb(color) for color in colors]).reshape(-1, 3)


def class_colors(classes: NDArray[Any]) -> NDArray[np.float64]:
    """The colour of the class of each row, `(N, 3)`."""
    found, codes = np.unique(classes, return_inverse=True)
    return rgb_of(palette(len(found)))[codes]

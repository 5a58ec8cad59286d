"""Randomness in numpy's terms."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.random.mtrand import get_bit_generator

from gmm_lightning._messages import describe
from gmm_lightning.errors import InvalidArgumentError


def check_random_state(seed: Any) -> np.random.RandomState:
    """A `RandomState` from a seed, a generator or None.

    Args:
        seed: None or `np.random` for numpy's global source, an int, or a `RandomState` to share.

    Raises:
        InvalidArgumentError: anything else, or a seed out of numpy's range.

    Example:
        >>> check_random_state(0).randint(10)
        5
    """
    if seed is None or seed is np.random:
        return np.random.RandomState(get_bit_generator())
    if isinstance(seed, np.random.RandomState):
        return seed
    if isinstance(seed, Integral) and 0 <= int(seed) < 1 << 32:
        return np.random.RandomState(int(seed))
    raise InvalidArgumentError(
        f"random_state must be None, an int in [0, 2**32) or a numpy RandomState, "
        f"got {describe(seed)}"
    )

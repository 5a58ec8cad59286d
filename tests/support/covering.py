"""Products of cases of which a part is enough to find most faults, and the rest is slow."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


def covering(*factors: Iterable[Any], strength: int = 2) -> list[Any]:
    """Parameters of all combinations of some factors, for `pytest.mark.parametrize`.

    The combinations that cover all pairs of values (`strength=2`), or every value once
    (`strength=1`), run always; the others are marked slow.
    """
    cases = list(product(*(list(enumerate(factor)) for factor in factors)))
    covers = [{*combinations(enumerate(i for i, _ in case), strength)} for case in cases]
    missing = set().union(*covers)
    chosen = set()
    while missing:
        best = max(range(len(cases)), key=lambda at: len(covers[at] & missing))
        missing -= covers[best]
        chosen.add(best)
    return [
        pytest.param(*(value for _, value in case), marks=() if at in chosen else pytest.mark.slow)
        for at, case in enumerate(cases)
    ]

"""What the suite leans on: products of cases that are covered."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from support.covering import covering

FACTORS = ([1, 2, 3, 4], ["a", "b", "c"], [None, True])


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_covering_marks_what_adds_no_combination_as_slow(strength: int) -> None:
    cases = covering(*FACTORS, strength=strength)
    assert [case.values for case in cases] == list(product(*FACTORS))
    fast = [case.values for case in cases if not case.marks]
    for at in combinations(range(3), strength):
        wanted = set(product(*(FACTORS[i] for i in at)))
        assert {tuple(case[i] for i in at) for case in fast} == wanted
    assert len(fast) == {1: 4, 2: 12, 3: 24}[strength]

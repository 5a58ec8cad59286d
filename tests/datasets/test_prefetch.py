"""Reading ahead: the same items, errors where they belong, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gmm_lightning.datasets._prefetch import prefetch


def threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 10])
def test_the_same_items_in_order(n: int, depth: int) -> None:
    assert list(prefetch(range(n), depth)) == list(range(n))
    assert threads() == 0


def test_it_begins_with_the_first_item_and_keeps_its_distance() -> None:
    made: list[int] = []
    produced = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            produced.release()
            yield i

    iterator = prefetch(items(), depth=2)
    assert made == []
    assert next(iterator) == 0
    # One is in use and two wait; no further one is made.
    for _ in range(3):
        produced.acquire()
    assert not produced.acquire(timeout=0.02)
    assert made == [0, 1, 2]
    iterator.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    iterator = prefetch(items())
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(iterator)
    assert threads() == 0


@pytest.mark.parametrize("taken", [1, 3])
def test_a_dropped_iterator_ends_its_thread(taken: int) -> None:
    iterator = prefetch(iter(range(1000)))
    for _ in range(taken):
        next(iterator)
    assert threads() == 1
    del iterator
    assert threads() == 0

"""Reading ahead: the next batches are read from the disk while one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_Item = TypeVar("_Item")

_END: Any = object()


def prefetch(items: Iterable[_Item], depth: int = 2) -> Iterator[_Item]:
    """The same items, up to `depth` of them taken in advance by a thread.

    An error of the thread is raised here, after the items before it. When this iterator is
    dropped or closed, the thread ends after its current item.

    Args:
        items: what to read; only the thread touches it.
        depth: items that may wait.

    Example:
        >>> list(prefetch(range(3)))
        [0, 1, 2]
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        waiting = deque(pool.submit(next, iterator, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
            # Free the batch before waiting for the next one.
            del item
    finally:
        pool.shutdown(cancel_futures=True)

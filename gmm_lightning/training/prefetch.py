"""Reading ahead: the next blocks come from the disk while this one is computed with."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")

# Says that there are no more items.
END = object()


def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, up to `depth` of them taken in advance by a thread.

    What the thread meets is raised here, in its place. When this iterator is dropped or closed
    the thread ends with the item that it is at.

    Args:
        items: what to read; it is touched by the thread alone.
        depth: items that may wait.

    Example:
        >>> list(ahead(range(3)))
        [0, 1, 2]
    """
    taken: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    room, dropped = threading.Semaphore(depth), threading.Event()

    def read() -> None:
        try:
            iterator = iter(items)
            while room.acquire() and not dropped.is_set():
                # Not named here: a block that is done with must not live on.
                taken.put((next(iterator), None))
        except StopIteration:
            taken.put((END, None))
        except BaseException as error:
            taken.put((END, error))

    # A daemon: a program may end while an iterator is still half read.
    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = taken.get()
            room.release()
            if error is not None:
                raise error
            if item is END:
                return
            yield item
            del item
    finally:
        dropped.set()
        room.release()
        thread.join()

"""Limits the memory used by concurrent image decoding, first come, first served."""

import contextlib
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator


class MemoryLimit:
    """A semaphore that counts bytes.

    Requests are served in order, so that small ones never starve a large one. A request above the capacity takes all
    of it. A thread that has entered can enter again, since it would otherwise wait for itself forever.

    Args:
        capacity: Bytes that may be in use at once.
        free: Bytes up to which a request is not counted and does not wait.
    """

    def __init__(self, capacity: int, free: int) -> None:
        self.capacity, self.free = capacity, free
        self._start()
        if hasattr(os, "register_at_fork"):
            # threads inside do not exist in a forked child and would never leave
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._used = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._inside: set[int] = set()

    @contextlib.contextmanager
    def entered(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free, and holds them inside the context."""
        thread = threading.get_ident()
        if size <= self.free or thread in self._inside:
            yield
            return
        size = min(size, self.capacity)
        ticket = object()
        changed = self._changed
        with changed:
            self._waiting.append(ticket)
            try:
                changed.wait_for(lambda: self._waiting[0] is ticket and self._used + size <= self.capacity)
                self._used += size
                self._inside.add(thread)
            finally:  # a request that is interrupted must not block the others
                self._waiting.remove(ticket)
                changed.notify_all()
        try:
            _return_memory()(0)
            yield
        finally:
            if changed is self._changed:  # not in a child that was forked meanwhile
                with changed:
                    self._used -= size
                    self._inside.discard(thread)
                    changed.notify_all()


@functools.cache
def _return_memory() -> Callable[[int], object]:
    """Finds the function that returns freed memory to the system, which glibc would keep after a large photo."""
    if sys.platform == "linux":
        import ctypes  # imported here, since few photos are large

        with contextlib.suppress(OSError, AttributeError):  # another C library
            return ctypes.CDLL(None).malloc_trim
    return lambda _: None

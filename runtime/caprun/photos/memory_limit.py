"""Limits the memory used by concurrent image decoding."""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator


class MemoryLimit:
    """A semaphore that counts bytes.

    A request above the capacity takes all of it. A thread that has entered must leave before it enters again.

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
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextlib.contextmanager
    def entered(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free, and holds them inside the context."""
        if size <= self.free:
            yield
            return
        size, taken = min(size, self.capacity), 0
        changed = self._changed
        try:
            with self._turn, changed:  # while a large request has its turn, small ones cannot pass it
                changed.wait_for(lambda: self._used + size <= self.capacity)
                self._used, taken = self._used + size, size
            _return_memory()(0)
            yield
        finally:
            if changed is self._changed:  # not in a child that was forked meanwhile
                with changed:
                    self._used -= taken
                    changed.notify()


@functools.cache
def _return_memory() -> Callable[[int], object]:
    """Finds the function that returns freed memory to the system, which glibc would keep after a large photo."""
    if sys.platform == "linux":
        import ctypes  # imported here, since few photos are large

        with contextlib.suppress(OSError, AttributeError):  # another C library
            return ctypes.CDLL(None).malloc_trim
    return lambda _: None

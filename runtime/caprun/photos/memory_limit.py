"""How many large photos may be decoded at once: as many as fit into a share of the memory, the first to come first."""

import contextlib
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator


class MemoryLimit:
    """A semaphore that counts bytes.

    Whoever asks waits for those who asked before, so that none is passed over for ever by smaller ones. One that is
    larger than all there is takes it all. A thread that has entered is let in again, for nobody else would let it.

    Args:
        capacity: bytes that may be in use at once.
        free: bytes up to which nobody is asked, nor waits.
    """

    def __init__(self, capacity: int, free: int) -> None:
        self.capacity, self.free = capacity, free
        self._start()
        if hasattr(os, "register_at_fork"):
            # the threads that were inside are not in the child, and would never leave
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._used = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._inside: set[int] = set()

    @contextlib.contextmanager
    def entered(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and have them until the end."""
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
            finally:  # one that is interrupted does not hold up the others
                self._waiting.remove(ticket)
                changed.notify_all()
        try:
            _return_memory()(0)
            yield
        finally:
            if changed is self._changed:  # not in a child that began meanwhile
                with changed:
                    self._used -= size
                    self._inside.discard(thread)
                    changed.notify_all()


@functools.cache
def _return_memory() -> Callable[[int], object]:
    """A function that gives the system what glibc keeps for a thread that has decoded a large photo and may again."""
    if sys.platform == "linux":
        import ctypes  # here, for few photos are large

        with contextlib.suppress(OSError, AttributeError):  # of another C library
            return ctypes.CDLL(None).malloc_trim
    return lambda _: None

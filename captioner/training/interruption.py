"""Delays Ctrl-C and SIGTERM until the end of a step, so that all finished steps can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def delayed_interruption(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """Yields an event that the first signal sets; the second signal interrupts immediately."""
    requested = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        say("stopping after this step or validation; press Ctrl-C again to stop immediately")

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

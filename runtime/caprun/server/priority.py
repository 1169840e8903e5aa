"""Threads that make way: for the event loop, which must answer at once even where all cores are busy."""

import contextlib
import os
import threading

NICE = 5
"""How far threads that compute step back."""


def step_back() -> None:
    """Lower the priority of the calling thread; on Linux alone, where threads have priorities of their own."""
    with contextlib.suppress(AttributeError, OSError):
        if os.uname().sysname == "Linux":
            os.setpriority(
                os.PRIO_PROCESS, threading.get_native_id(), min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
            )

"""Lines on standard error for the person who runs a service."""

import contextlib
import sys


def say(line: str) -> None:
    """Prints a line; a service does not end because nobody reads it."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def say_ending(name: str, grace: float) -> None:
    """Says that a signal was heard, and what it does."""
    say(f"{name}: answering what was asked, for {grace:g} s at most; again to end at once.")

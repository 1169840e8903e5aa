"""What a service says to whoever runs it: lines on standard error."""

import contextlib
import sys


def say(line: str) -> None:
    """A line, if anybody reads it: a service does not end because nobody does."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)

"""Progress on standard error: one line that is redrawn on a terminal, and a plain line every 30 seconds elsewhere."""

import shutil
import sys
import time
from datetime import timedelta


class PhotoProgress:
    """Counts photos on standard error; a context manager that clears the line on a terminal at the end.

    `done` of the `total` photos were captioned by an earlier run.
    """

    def __init__(self, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self._total, self._before, self._done, self._quiet = total, done, done, quiet
        self._terminal = sys.stderr.isatty()
        self._every = 0.1 if self._terminal else 30.0  # seconds between two lines
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> "PhotoProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def say(self, line: str) -> None:
        """Prints a separate line."""
        self._clear()
        print(line, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._terminal and not self._quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def advance(self) -> None:
        """Counts one photo."""
        self._done += 1
        now = time.monotonic()
        if self._quiet or now - self._shown < self._every:
            return
        self._shown = now
        left = timedelta(seconds=round((self._total - self._done) / self.rate))
        share = f"{self._done:,} of {self._total:,} photos ({self._done / self._total:.0%})"
        line = f"{share}, {self.rate:.1f} photos/s, {left} left"
        if self._terminal:
            width = shutil.get_terminal_size().columns
            print(f"\r{line[: width - 1]}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Photos per second of this run."""
        return (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)


def counted(photos: int) -> str:
    """Formats a number of photos, such as "1 photo" or "2,000 photos"."""
    return "1 photo" if photos == 1 else f"{photos:,} photos"

"""How long work shows: one line that is rewritten on a terminal, a plain line now and then elsewhere."""

import os
import sys
import time
from types import TracebackType
from typing import TextIO

_REDRAW_EVERY = 0.1  # seconds
_LINE_EVERY = 30.0  # seconds between lines where there is no terminal


class PhotoProgress:
    """Counts photos on stderr; as a context manager, it leaves a terminal's line empty behind it.

    Args:
        total: how many photos there are.
        done: how many were done before.
        quiet: whether nothing is to be shown.
        stream: where; None for stderr.
    """

    def __init__(self, total: int, *, done: int = 0, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._total, self._before, self._done, self._quiet = total, done, done, quiet
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = _REDRAW_EVERY if self._terminal else _LINE_EVERY
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> "PhotoProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self._clear()
        print(line, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._terminal and not self._quiet and self._shown > self._began:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if self._quiet or now - self._shown < self._every:
            return
        self._shown = now
        if self._terminal:
            width = os.get_terminal_size(self._stream.fileno()).columns or 80  # some terminals do not know
            print(f"\r{self._line()[: width - 1]}\x1b[K", end="", file=self._stream, flush=True)
        else:
            print(self._line(), file=self._stream, flush=True)

    @property
    def rate(self) -> float:
        """Photos a second since it began."""
        return (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)

    def _line(self) -> str:
        left = (self._total - self._done) / max(self.rate, 1e-9)
        share = f"{self._done:,} of {self._total:,} photos ({self._done / self._total:.0%})"
        return f"{share}, {self.rate:.1f} photos/s, {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(photos: int) -> str:
    """So many photos, in words."""
    return "1 photo" if photos == 1 else f"{photos:,} photos"

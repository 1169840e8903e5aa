"""Progress on standard error: one line that is redrawn on a terminal, and a plain line every 30 seconds elsewhere."""

import shutil
import sys
import time
from datetime import timedelta


class Progress:
    """Shows the progress of a task; a context manager that clears the line on a terminal at the end.

    If standard error is not a terminal, a task that showed a line and did not fail also shows the last one.

    Args:
        what: Name of the task.
        total: Number of units, if known.
        unit: Plural name of a unit.
        done: Number of units that were already done; they do not count towards the rate.
        quiet: Whether to show only what `say` prints.
    """

    def __init__(self, what: str, total: int | None, unit: str, *, done: int = 0, quiet: bool = False) -> None:
        self._what, self._total, self._unit, self._quiet = what, total, unit, quiet
        self._before = self._done = self._told = done
        self._note = ""
        self._terminal = sys.stderr.isatty()
        self._every = 0.1 if self._terminal else 30.0  # seconds between two lines
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._terminal and self._done != self._total:
            self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._terminal:
            self._clear()
        elif kind is None and self._shown > self._began and self._done > self._told:
            self._show()

    def say(self, line: str) -> None:
        """Prints a separate line."""
        self._clear()
        print(line, file=sys.stderr, flush=True)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts finished units; `note` is at the end of the line."""
        self._done += count
        self._note = note
        if time.monotonic() - self._shown >= self._every:
            self._show()

    @property
    def rate(self) -> float:
        """Units per second of this run."""
        return (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)

    def _clear(self) -> None:
        if self._terminal and not self._quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._quiet:
            return
        self._shown, self._told = time.monotonic(), self._done
        line = f"{self._what}: {self._done:,}"
        if self._total:
            line += f" of {self._total:,} {self._unit} ({min(1, self._done / self._total):.0%})"
        else:
            line += f" {self._unit}"
        if self._done > self._before:
            line += f", {self.rate:.1f}/s"
            if self._total:
                line += f", {timedelta(seconds=round(max(0, self._total - self._done) / self.rate))} left"
        if self._note:
            line += f", {self._note}"
        if self._terminal:
            width = shutil.get_terminal_size().columns
            print(f"\r{line[: width - 1]}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def counted(photos: int) -> str:
    """Formats a number of photos, such as "1 photo" or "2,000 photos"."""
    return "1 photo" if photos == 1 else f"{photos:,} photos"

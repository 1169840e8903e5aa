"""Shows the progress of a long task: a bar on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_LINE_EVERY = 30.0  # seconds between lines if stderr is not a terminal


class Progress:
    """Shows the progress of a task on stderr.

    Args:
        what: name of the task.
        total: number of units, if known.
        unit: plural name of a unit.
        done: number of units that were already done; they do not count towards the rate.
        quiet: whether to show nothing.
    """

    def __init__(self, what: str, total: int | None, unit: str, *, done: int = 0, quiet: bool = False) -> None:
        self._what, self._total, self._unit, self._quiet = what, total, unit, quiet
        self._before = self._done = self._told = done
        self._note = ""
        self._began = self._said = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}", leave=False, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._said > self._began and self._done > self._told:
            self._line()  # the last line, if others were shown

    def advance(self, count: int, note: str = "") -> None:
        """Adds finished units; `note` is shown after the count."""
        self._done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif not self._quiet and time.monotonic() - self._said >= _LINE_EVERY:
            self._line()

    def _line(self) -> None:
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._began, 1e-9)
        tail = f", {self._note}" if self._note else ""
        share, left = f"{self._done}", ""
        if self._total is not None:
            share, left = f"{share}/{self._total}", f", {(self._total - self._done) / max(rate, 1e-9):.0f} s left"
        print(f"{self._what}: {share} {self._unit}, {rate:.1f}/s{left}{tail}", file=sys.stderr, flush=True)
        self._said, self._told = now, self._done

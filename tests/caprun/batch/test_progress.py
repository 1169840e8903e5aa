"""Progress is one updated line on a terminal, and a line at intervals elsewhere."""

import io
import os
import shutil
import sys

import pytest

from caprun.batch import progress
from caprun.batch.progress import PhotoProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_printed_at_intervals_without_a_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with PhotoProgress(10_000, done=1_000) as shown:
        for _ in range(140):
            clock.now += 0.5
            shown.advance()
    assert capsys.readouterr().err.splitlines() == [
        "1,060 of 10,000 photos (11%), 2.0 photos/s, 1:14:30 left",
        "1,120 of 10,000 photos (11%), 2.0 photos/s, 1:14:00 left",
    ]


def test_a_terminal_shows_one_line_that_fits_and_is_cleared(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((30, 5)))
    with PhotoProgress(100) as shown:
        for _ in range(10):
            clock.now += 0.06
            shown.advance()
        shown.say("something else")
    drawn = terminal.getvalue()
    assert "\n" not in drawn.replace("something else\n", "")
    assert drawn.count("photos (") == 5, "not at every photo"
    assert "\r2 of 100 photos (2%), 16.7 ph\x1b[K" in drawn
    assert "\r\x1b[Ksomething else\n" in drawn
    assert drawn.endswith("\r\x1b[K")


def test_quiet_prints_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with PhotoProgress(2, quiet=True) as shown:
        clock.now += 1000
        shown.advance()
    assert terminal.getvalue() == ""

"""Progress is one updated line on a terminal, and a line at intervals elsewhere."""

import io
from contextlib import suppress
from types import SimpleNamespace

import pytest

from caprun.batch import progress
from caprun.batch.progress import Progress

Capture = pytest.CaptureFixture[str]


class Clock:
    """A clock that advances only when a test sets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=terminal))  # pytest replaces that of the real one
    monkeypatch.setenv("COLUMNS", "50")
    return terminal


# --- Without a terminal


def test_a_line_is_printed_at_intervals(clock: Clock, capsys: Capture) -> None:
    with Progress("captioning", 10_000, "photos", done=1_000) as shown:
        for _ in range(140):
            clock.now += 0.5
            shown.advance()
        assert capsys.readouterr().err.splitlines() == [
            "captioning: 1,060 of 10,000 photos (11%), 2.0/s, 1:14:30 left",
            "captioning: 1,120 of 10,000 photos (11%), 2.0/s, 1:14:00 left",
        ]


def test_without_a_total_a_line_has_no_time_left(clock: Clock, capsys: Capture) -> None:
    with Progress("rows", None, "rows") as shown:
        clock.now += 40
        shown.advance(20)
        assert capsys.readouterr() == ("", "rows: 20 rows, 0.5/s\n")


def test_a_note_is_at_the_end_of_the_line(clock: Clock, capsys: Capture) -> None:
    with Progress("epoch 1", 100, "captions") as shown:
        clock.now += 40
        shown.advance(20, "loss 3.21")
        line = capsys.readouterr().err
    assert line == "epoch 1: 20 of 100 captions (20%), 0.5/s, 0:02:40 left, loss 3.21\n"


def test_work_of_less_than_30_seconds_prints_nothing(clock: Clock, capsys: Capture) -> None:
    with Progress("features", 10, "photos") as shown:
        clock.now += 29
        shown.advance(10)
    assert capsys.readouterr().err == ""


def test_work_that_printed_a_line_also_prints_the_last_one(clock: Clock, capsys: Capture) -> None:
    with Progress("features", 10, "photos") as shown:
        clock.now += 40
        shown.advance(6)
        clock.now += 10
        shown.advance(4)
        capsys.readouterr()
    assert capsys.readouterr().err == "features: 10 of 10 photos (100%), 0.2/s, 0:00:00 left\n"


def test_work_that_fails_has_no_last_line(clock: Clock, capsys: Capture) -> None:
    with suppress(KeyboardInterrupt), Progress("features", 10, "photos") as shown:
        clock.now += 40
        shown.advance(4)
        clock.now += 10
        shown.advance(4)
        capsys.readouterr()
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


def test_nothing_is_printed_if_all_work_was_done_earlier(clock: Clock, capsys: Capture) -> None:
    with Progress("epoch 1", 100, "captions", done=100):
        clock.now += 40
    assert capsys.readouterr().err == ""


# --- On a terminal


def test_a_terminal_shows_one_line_that_fits_and_is_cleared(clock: Clock, terminal: Terminal) -> None:
    with Progress("captioning", 100, "photos") as shown:
        for _ in range(10):
            clock.now += 0.06
            shown.advance()
        shown.say("something else")
    drawn = terminal.getvalue()
    assert "\n" not in drawn.replace("something else\n", "")
    assert drawn.startswith("\rcaptioning: 0 of 100 photos (0%)\x1b[K"), "before any work is done"
    assert drawn.count("photos (") == 6, "not at every photo"
    assert "\rcaptioning: 2 of 100 photos (2%), 16.7/s, 0:00:06\x1b[K" in drawn
    assert "\r\x1b[Ksomething else\n" in drawn
    assert drawn.endswith("\r\x1b[K")


def test_quiet_work_prints_only_what_is_said(clock: Clock, terminal: Terminal) -> None:
    with Progress("captioning", 2, "photos", quiet=True) as shown:
        clock.now += 1000
        shown.advance()
        shown.say("something else")
    assert terminal.getvalue() == "something else\n"

"""Progress is printed as lines, as a bar on a terminal, or not at all."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from captioner.progress import Progress


class Clock:
    """A clock that advances only when a test sets it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Terminal:
    """Standard error, presented as a terminal."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("captioner.progress.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


@pytest.fixture
def terminal(clock, capsys, monkeypatch):
    """Simulates a terminal of 120 columns; returns a function for the text last written over its line."""
    monkeypatch.setattr("captioner.progress.sys", SimpleNamespace(stderr=Terminal()))
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "40")
    return lambda: capsys.readouterr().err.split("\r")[-1]


# --- Without a terminal


def test_a_line_has_count_total_unit_rate_and_seconds_left(clock, capsys):
    with Progress("features", 100, "photos") as progress:
        clock.seconds += 40
        progress.advance(20)
        assert capsys.readouterr().err == "features: 20/100 photos, 0.5/s, 160 s left\n"


def test_without_a_total_a_line_has_no_time_left(clock, capsys):
    with Progress("rows", None, "rows") as progress:
        clock.seconds += 40
        progress.advance(20)
        assert capsys.readouterr().err == "rows: 20 rows, 0.5/s\n"


def test_rate_and_time_left_cover_all_work_since_the_start(clock, capsys):
    with Progress("features", 100, "photos") as progress:
        for count in (60, 20):
            clock.seconds += 40
            progress.advance(count)
        assert capsys.readouterr().err.splitlines()[1] == "features: 80/100 photos, 1.0/s, 20 s left"


def test_at_most_one_line_is_printed_every_30_seconds(clock, capsys):
    shown = []
    with Progress("features", 1000, "photos") as progress:
        for second in range(1, 101):
            clock.seconds += 1
            progress.advance(1)
            if capsys.readouterr().err:
                shown.append(second)
    assert shown == [30, 60, 90]


def test_work_of_less_than_30_seconds_prints_nothing(clock, capsys):
    with Progress("features", 10, "photos") as progress:
        clock.seconds += 29
        progress.advance(10)
    assert capsys.readouterr().err == ""


def test_work_that_printed_a_line_also_prints_the_last_one(clock, capsys):
    with Progress("features", 10, "photos") as progress:
        clock.seconds += 40
        progress.advance(6)
        clock.seconds += 10
        progress.advance(4)
        capsys.readouterr()
    assert capsys.readouterr().err == "features: 10/10 photos, 0.2/s, 0 s left\n"


def test_work_that_fails_has_no_last_line(clock, capsys):
    with suppress(KeyboardInterrupt), Progress("features", 10, "photos") as progress:
        clock.seconds += 40
        progress.advance(4)
        capsys.readouterr()
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


def test_a_note_is_at_the_end_of_the_line(clock, capsys):
    with Progress("epoch 1", 100, "captions") as progress:
        clock.seconds += 40
        progress.advance(20, "loss 3.21")
        assert capsys.readouterr().err == "epoch 1: 20/100 captions, 0.5/s, 160 s left, loss 3.21\n"


def test_work_done_earlier_counts_in_the_total_but_not_in_the_rate(clock, capsys):
    with Progress("epoch 1", 100, "captions", done=60) as progress:
        clock.seconds += 40
        progress.advance(20)
        assert capsys.readouterr().err == "epoch 1: 80/100 captions, 0.5/s, 40 s left\n"


def test_nothing_is_printed_if_all_work_was_done_earlier(clock, capsys):
    with Progress("epoch 1", 100, "captions", done=100):
        clock.seconds += 40
    assert capsys.readouterr().err == ""


def test_quiet_work_prints_nothing(clock, capsys):
    with Progress("features", 100, "photos", quiet=True) as progress:
        clock.seconds += 40
        progress.advance(100)
    assert capsys.readouterr().err == ""


def test_nothing_is_written_to_standard_output(clock, capsys):
    with Progress("features", 100, "photos") as progress:
        clock.seconds += 40
        progress.advance(20)
    assert capsys.readouterr().out == ""


# --- On a terminal


def test_a_bar_has_count_total_unit_rate_and_time_left(clock, terminal):
    with Progress("features", 100, "photos") as progress:
        clock.seconds += 2
        progress.advance(20)
        bar = terminal()
    assert bar.startswith("features:  20%|")
    assert bar.endswith("| 20/100 [00:02<00:08, 10.00 photos/s]")


def test_a_bar_is_shown_before_any_work_is_done(terminal):
    with Progress("features", 100, "photos"):
        assert "| 0/100 [" in terminal()


def test_a_bar_has_a_note(clock, terminal):
    with Progress("epoch 1", 100, "captions") as progress:
        clock.seconds += 2
        progress.advance(20, "loss 3.21")
        assert terminal().endswith("10.00 captions/s, loss 3.21]")


def test_work_done_earlier_counts_in_the_bar_but_not_in_its_rate(clock, terminal):
    with Progress("epoch 1", 100, "captions", done=60) as progress:
        clock.seconds += 2
        progress.advance(20)
        assert terminal().endswith("| 80/100 [00:02<00:02, 10.00 captions/s]")


def test_a_bar_disappears_when_the_work_is_done(clock, terminal):
    with Progress("features", 100, "photos") as progress:
        clock.seconds += 40
        progress.advance(100)
    assert terminal().strip() == ""


def test_a_bar_is_shown_without_lines(clock, terminal):
    with Progress("features", 100, "photos") as progress:
        clock.seconds += 40
        progress.advance(20)
        assert "\n" not in terminal()


def test_quiet_work_has_no_bar(clock, terminal):
    with Progress("features", 100, "photos", quiet=True) as progress:
        clock.seconds += 40
        progress.advance(20)
        assert terminal() == ""

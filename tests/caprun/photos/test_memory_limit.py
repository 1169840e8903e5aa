"""Large photos wait until their memory is available; small photos never wait."""

import os
import threading
import time
from collections.abc import Callable

import pytest

from caprun.photos.memory_limit import MemoryLimit


def until(true: Callable[[], bool]) -> None:
    """Waits until another thread makes `true()` true, and fails after 60 seconds."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never came to this"
        time.sleep(0.001)


class Visitor(threading.Thread):
    """A thread that enters, and leaves on `leave()`."""

    def __init__(self, gate: MemoryLimit, size: int) -> None:
        super().__init__(daemon=True)
        self.gate, self.size = gate, size
        self.inside, self.told = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.gate.entered(self.size):
            self.inside.set()
            self.told.wait(60)

    def leave(self) -> None:
        self.told.set()
        self.join(60)


def waiting(gate: MemoryLimit) -> None:
    """Waits until a request waits for memory."""
    until(lambda: bool(gate._changed._waiters))  # type: ignore[attr-defined]


def test_requests_enter_until_the_capacity_is_used() -> None:
    gate = MemoryLimit(100, free=10)
    first, second = Visitor(gate, 60), Visitor(gate, 40)
    assert first.inside.wait(60)
    assert second.inside.wait(60)
    third = Visitor(gate, 30)
    waiting(gate)
    assert not third.inside.is_set()
    second.leave()
    assert third.inside.wait(60)
    first.leave()
    third.leave()


def test_a_small_request_never_waits() -> None:
    gate = MemoryLimit(100, free=10)
    large = Visitor(gate, 100)
    assert large.inside.wait(60)
    with gate.entered(10):
        pass
    large.leave()


def test_later_requests_do_not_overtake_a_large_request() -> None:
    gate = MemoryLimit(100, free=10)
    first = Visitor(gate, 50)
    assert first.inside.wait(60)
    large = Visitor(gate, 100)
    waiting(gate)
    later = Visitor(gate, 50)
    assert not later.inside.wait(0.1), "there is room, and it is not its turn"
    first.leave()
    assert large.inside.wait(60)
    assert not later.inside.is_set()
    large.leave()
    assert later.inside.wait(60)
    later.leave()


def test_a_request_above_the_capacity_takes_all_of_it() -> None:
    gate = MemoryLimit(100, free=10)
    with gate.entered(1_000):
        other = Visitor(gate, 20)
        waiting(gate)
        assert not other.inside.is_set()
    assert other.inside.wait(60)
    other.leave()


def test_a_request_interrupted_while_waiting_does_not_block_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = MemoryLimit(100, free=10)
    large = Visitor(gate, 100)
    assert large.inside.wait(60)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gate._changed, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt), gate.entered(50):
            pytest.fail("it entered")
    large.leave()
    with gate.entered(100):
        pass


def test_an_error_inside_frees_the_memory() -> None:
    gate = MemoryLimit(100, free=10)
    with pytest.raises(ValueError, match="by chance"), gate.entered(100):
        raise ValueError("by chance")
    with gate.entered(100):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_threads() -> None:
    gate = MemoryLimit(100, free=10)
    large = Visitor(gate, 100)
    assert large.inside.wait(60)
    child = os.fork()
    if child == 0:
        threading.Timer(20, os._exit, (1,)).start()
        with gate.entered(100):
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    large.leave()

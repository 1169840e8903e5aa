"""Available memory limits how many large photos are decoded at once, in order; small ones never wait."""

import os
import threading
import time
from collections.abc import Callable

import pytest

from caprun.photos.memory_limit import MemoryLimit


def until(true: Callable[[], bool]) -> None:
    """Wait for another thread; a test that hangs has failed."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never came to this"
        time.sleep(0.001)


class Visitor(threading.Thread):
    """Enters, and leaves when it is told to."""

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


def waiting(gate: MemoryLimit, count: int) -> None:
    until(lambda: len(gate._waiting) == count)


def test_as_many_enter_as_there_is_room_for() -> None:
    gate = MemoryLimit(100, free=10)
    first, second = Visitor(gate, 60), Visitor(gate, 40)
    assert first.inside.wait(60)
    assert second.inside.wait(60)
    third = Visitor(gate, 30)
    waiting(gate, 1)
    assert not third.inside.is_set()
    second.leave()
    assert third.inside.wait(60)
    first.leave()
    third.leave()


def test_who_is_inside_does_not_wait_for_oneself() -> None:
    gate = MemoryLimit(100, free=10)
    went = threading.Event()

    def nest() -> None:
        with gate.entered(60):
            with gate.entered(60):
                pass
            went.set()

    threading.Thread(target=nest, daemon=True).start()
    assert went.wait(60)
    after = Visitor(gate, 100)
    assert after.inside.wait(60), "and what was taken is given back once"
    after.leave()


def test_a_small_one_never_waits() -> None:
    gate = MemoryLimit(100, free=10)
    large = Visitor(gate, 100)
    assert large.inside.wait(60)
    with gate.entered(10):
        pass
    large.leave()


def test_a_large_one_is_not_passed_over_by_those_that_came_later() -> None:
    gate = MemoryLimit(100, free=10)
    first = Visitor(gate, 50)
    assert first.inside.wait(60)
    large = Visitor(gate, 100)
    waiting(gate, 1)
    later = Visitor(gate, 50)
    waiting(gate, 2)
    assert not later.inside.is_set(), "there is room, and it is not its turn"
    first.leave()
    assert large.inside.wait(60)
    assert not later.inside.is_set()
    large.leave()
    assert later.inside.wait(60)
    later.leave()


def test_one_larger_than_all_there_is_takes_it_all() -> None:
    gate = MemoryLimit(100, free=10)
    with gate.entered(1_000):
        other = Visitor(gate, 20)
        waiting(gate, 1)
        assert not other.inside.is_set()
    assert other.inside.wait(60)
    other.leave()


def test_one_that_is_interrupted_while_it_waits_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_error_inside_gives_the_room_back() -> None:
    gate = MemoryLimit(100, free=10)
    with pytest.raises(ValueError, match="by chance"), gate.entered(100):
        raise ValueError("by chance")
    with gate.entered(100):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_wait_for_threads_it_does_not_have() -> None:
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

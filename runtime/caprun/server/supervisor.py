"""Several processes of a service: one a GPU or a set of cores, on one socket; this one starts and ends them.

It imports nothing heavy and starts no thread, so that forking it is safe and what a worker computes with is imported
in the worker, after it was told its cores and its GPU.
"""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from caprun.errors import CaprunError
from caprun.server.log import say
from caprun.server.places import Place
from caprun.server.settings import Settings

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0  # seconds before a worker that died is started again
_LONG_LIFE = 60.0  # seconds after which a death is not like the last one
_AFTER_GRACE = 7.0  # seconds in which a worker ends by itself when the grace period is over
_DRAIN = b"d"


class Parent:
    """What a worker knows of the process that started it.

    Args:
        down: a pipe that the parent says on that it is time to end, and that ends with the parent.
        up: a pipe to say on that the worker is ready.
    """

    def __init__(self, down: int, up: int) -> None:
        self._down, self._up = down, up
        self._lock = threading.Lock()
        self._drain: Callable[[], object] | None = None
        self._told = False
        threading.Thread(target=self._listen, daemon=True, name="parent").start()

    def ready(self, what: str) -> None:
        """The worker serves, and this is what."""
        os.write(self._up, what.encode())

    def told(self, drain: Callable[[], object]) -> None:
        """What to call, from another thread, when it is time to end."""
        with self._lock:
            self._drain = drain
            told = self._told
        if told:
            drain()

    def _listen(self) -> None:
        while os.read(self._down, 1) == _DRAIN:
            with self._lock:
                self._told, drain = True, self._drain
            if drain is not None:
                drain()
        if folder := os.environ.get(METRICS_FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)  # no worker outlives its parent


Work = Callable[[Place, Parent], int]
"""What a worker does: it returns its exit code, and raises a CaprunError where it cannot start."""


class _Worker(NamedTuple):
    place: Place
    pid: int
    down: int
    up: int
    started: float
    deaths: int
    """In a row, before this one."""


class Supervisor:
    """Keeps a worker running at each place.

    Args:
        listener: bound; handed on to all of them.
        places: where.
        work: what they do.
        settings: limits.
        forget: told of each process that died.
    """

    def __init__(
        self,
        listener: socket.socket,
        places: Sequence[Place],
        work: Work,
        settings: Settings,
        forget: Callable[[int], object],
    ) -> None:
        self._listener, self._places, self._work, self._settings = listener, places, work, settings
        self._forget = forget
        self._workers: dict[int, _Worker] = {}
        self._ready: set[int] = set()
        self._announced = False
        self._due: list[tuple[float, Place, int]] = []  # when to start which worker again, and after how many deaths
        self._stopping: signal.Signals | None = None
        self._deadline = float("inf")
        self._failed = False
        self._announce: Callable[[str], object] = say

    def run(self, ready: Callable[[str], object]) -> int:
        """Serve until told to end.

        Args:
            ready: called with what a worker says of itself when all of them serve.

        Returns:
            The exit code: 0, or 1 where requests were left without an answer, or 128 and the signal that ended it now.

        Raises:
            CaprunError: a worker cannot start.
        """
        self._announce = ready
        with self._metrics_folder(), self._signals() as signals, selectors.DefaultSelector() as self._selector:
            self._selector.register(signals, selectors.EVENT_READ)
            try:
                for place in self._places:
                    self._start(place, 0)
                while self._workers or (self._due and self._stopping is None):
                    events = self._selector.select(self._patience())
                    for key, _ in events:
                        if key.data is not None:
                            self._hear(key.data)
                    for number in os.read(signals, 1024) if any(key.data is None for key, _ in events) else b"":
                        if number in (signal.SIGTERM, signal.SIGINT) and self._stop(signal.Signals(number)):
                            return 128 + number
                    self._reap()
                    self._start_due()
                    if time.monotonic() > self._deadline:
                        self._failed = True
                        say("Error: a worker did not end by itself.")
                        self._kill()
                        self._deadline = float("inf")
                return int(self._failed)
            finally:
                self._kill()
                for worker in self._workers.values():
                    os.waitpid(worker.pid, 0)

    # Workers

    def _start(self, place: Place, deaths: int) -> None:
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        pid = os.fork()
        if not pid:
            inherited = [fd for worker in self._workers.values() for fd in (worker.down, worker.up)]
            for fd in (down_write, up_read, *inherited):
                os.close(fd)
            self._be_worker(place, down_read, up_write)
        os.close(down_read)
        os.close(up_write)
        worker = _Worker(place, pid, down_write, up_read, time.monotonic(), deaths)
        self._workers[pid] = worker
        self._selector.register(up_read, selectors.EVENT_READ, worker)

    def _be_worker(self, place: Place, down: int, up: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; it is the parent's to tell
            place.take()
            code = self._work(place, Parent(down, up))
        except CaprunError as error:
            with contextlib.suppress(OSError):
                os.write(up, b"!" + str(error).encode("utf-8", "surrogateescape"))
        except BaseException:  # noqa: BLE001  (it must not go on as its parent)
            import traceback

            with contextlib.suppress(OSError):
                traceback.print_exc()
        finally:
            os._exit(code)

    def _hear(self, worker: _Worker) -> None:
        said = os.read(worker.up, 65536).decode("utf-8", "surrogateescape")
        if not said:
            self._selector.unregister(worker.up)
        elif said.startswith("!"):
            if not self._announced:
                raise CaprunError(said[1:])
            say(f"Error: a worker cannot start: {said[1:]}")
        else:
            self._ready.add(worker.pid)
            if not self._announced and len(self._ready) == len(self._places):
                self._announced = True
                self._announce(said)

    def _reap(self) -> None:
        for pid in list(self._workers):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                worker = self._workers.pop(pid)
                if worker.up in self._selector.get_map():
                    self._hear(worker)  # its last words
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: _Worker, code: int) -> None:
        served = worker.pid in self._ready
        self._ready.discard(worker.pid)
        if worker.up in self._selector.get_map():
            self._selector.unregister(worker.up)
        os.close(worker.down)
        os.close(worker.up)
        self._forget(worker.pid)
        how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
        if self._stopping is not None:
            self._failed |= served and code != 0
            return
        if not self._announced:
            raise CaprunError(f"A worker died {how} before it served; run with --workers 1 to see more.")
        deaths = worker.deaths if time.monotonic() - worker.started < _LONG_LIFE else 0
        delay = min(_FIRST_DELAY * 2**deaths, _LONGEST_DELAY)
        self._due.append((time.monotonic() + delay, worker.place, deaths + 1))
        ended = "died" if code else "ended"
        say(f"Worker {worker.pid} {ended} {how}; another starts in {delay:g} s.")

    def _start_due(self) -> None:
        if self._stopping is not None:
            return
        now = time.monotonic()
        due, self._due = [one for one in self._due if one[0] <= now], [one for one in self._due if one[0] > now]
        for _, place, deaths in due:
            self._start(place, deaths)

    def _patience(self) -> float | None:
        """Seconds until something is due."""
        soonest = min([self._deadline, *(when for when, _, _ in self._due)])
        return None if soonest == float("inf") else max(0.0, soonest - time.monotonic())

    # The end

    def _stop(self, number: signal.Signals) -> bool:
        """Tell the workers to end; True: now, for it is the second time, or there is nothing to answer yet."""
        if self._stopping is not None or not self._announced:
            return True
        self._stopping = number
        grace = self._settings.grace
        self._deadline = time.monotonic() + grace + _AFTER_GRACE
        say(f"{number.name}: answering what was asked, for {grace:g} s at most; again to end at once.")
        self._listener.close()
        for worker in self._workers.values():
            if worker.pid in self._ready:
                with contextlib.suppress(OSError):  # it died
                    os.write(worker.down, _DRAIN)
            else:  # it serves nobody yet
                os.kill(worker.pid, signal.SIGTERM)
        return False

    def _kill(self) -> None:
        for worker in self._workers.values():
            os.kill(worker.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _metrics_folder(self) -> Iterator[None]:
        try:
            folder = tempfile.mkdtemp(prefix="caprun-metrics-")
        except OSError as error:
            raise CaprunError(f"No folder for what the workers count can be made; set TMPDIR: {error}.") from error
        os.environ[METRICS_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[METRICS_FOLDER]
            shutil.rmtree(Path(folder), ignore_errors=True)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """A pipe that says the number of each signal that comes."""
        hear, tell = os.pipe()
        os.set_blocking(tell, False)
        os.set_blocking(hear, False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        wakeup = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        try:
            yield hear
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(hear)
            os.close(tell)

"""Several processes of a service that share a listening socket: this one starts them, again if they die, and ends them.

It imports nothing heavy and starts no thread: forking is safe, and what a worker computes with is imported in the
worker, after it has taken its cores or its GPU.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import NamedTuple

from caprun.errors import CaprunError
from caprun.server import listening
from caprun.server.log import say, say_ending
from caprun.server.placement import Placement
from caprun.server.settings import Settings

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0  # seconds before a worker that died is started again
_LONG_LIFE = 60.0  # seconds after which a death has nothing to do with the one before
_AFTER_GRACE = 7.0  # seconds beyond the grace period in which a worker ends by itself
_fork = multiprocessing.get_context("fork")

Work = Callable[[Placement, Callable[[str], object]], int]
"""What a worker does until SIGTERM: it calls its second argument when it serves, and returns its exit code. It raises a
CaprunError where it cannot start."""


class _Worker(NamedTuple):
    placement: Placement
    process: ForkProcess
    said: Connection
    started: float
    deaths: int
    """In a row, before this one."""


class Supervisor:
    """Keeps a worker running for each placement.

    Args:
        listener: The socket that the workers share.
        placements: Where the workers compute.
        work: What they do.
        settings: How long they may take to end.
        forget: Told the process id of each that died.
    """

    def __init__(
        self,
        listener: socket.socket,
        placements: Sequence[Placement],
        work: Work,
        settings: Settings,
        forget: Callable[[int], object],
    ) -> None:
        self._listener, self._placements, self._work, self._settings = listener, placements, work, settings
        self._forget = forget
        self._workers: dict[int, _Worker] = {}
        self._serving: set[int] = set()
        self._due: list[tuple[float, Callable[[], object]]] = []  # what to do later, and when
        self._announced = self._stopping = self._failed = False

    def run(self, announce: Callable[[str], object]) -> int:
        """Serves until a signal; a second one ends all at once.

        Args:
            announce: Called with what a worker says of itself, when all of them serve.

        Returns:
            The exit code: 0; 1 where requests were left without an answer; or 128 and the number of the second signal.

        Raises:
            CaprunError: A worker cannot start.
        """
        with _metrics_folder(), _signals() as signals:
            try:
                for placement in self._placements:
                    self._start(placement, 0)
                while self._workers or not self._stopping:
                    soonest = min((when for when, _ in self._due), default=None)
                    patience = None if soonest is None else max(0.0, soonest - time.monotonic())
                    sentinels = [worker.process.sentinel for worker in self._workers.values()]
                    said = [worker.said for worker in self._workers.values() if not worker.said.closed]
                    woken = wait([signals, *sentinels, *said], patience)
                    for number in signals.recv(64) if signals in woken else b"":
                        # only SIGTERM and SIGINT have handlers of ours
                        if number in (signal.SIGTERM, signal.SIGINT) and not self._stop(signal.Signals(number)):
                            return 128 + number
                    for worker in list(self._workers.values()):
                        if worker.said in woken:
                            self._hear(worker, announce)
                        if worker.process.exitcode is not None:
                            self._bury(worker)
                    self._do_what_is_due()
                return int(self._failed)
            finally:
                self._kill()

    def _start(self, placement: Placement, deaths: int) -> None:
        hear, tell = _fork.Pipe(duplex=False)
        process = _fork.Process(target=_be_worker, args=(self._work, placement, tell))
        process.start()
        tell.close()
        assert process.pid is not None
        self._workers[process.pid] = _Worker(placement, process, hear, time.monotonic(), deaths)

    def _hear(self, worker: _Worker, announce: Callable[[str], object]) -> None:
        try:
            serves, text = worker.said.recv()
        except EOFError:
            worker.said.close()
            return
        if not serves:
            if not self._announced:
                raise CaprunError(text)
            say(f"Error: a worker cannot start: {text}")
            return
        self._serving.add(worker.process.pid or 0)
        if not self._announced and len(self._serving) == len(self._placements):
            self._announced = True
            announce(text)

    def _bury(self, worker: _Worker) -> None:
        pid, code = worker.process.pid or 0, worker.process.exitcode or 0
        del self._workers[pid]
        worker.said.close()
        worker.process.join()
        self._forget(pid)
        if self._stopping:
            self._failed |= code != 0 and pid in self._serving
            return
        self._serving.discard(pid)
        how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
        if not self._announced:
            raise CaprunError(f"A worker died {how} before it served; run with --workers 1 to see more.")
        deaths = worker.deaths if time.monotonic() - worker.started < _LONG_LIFE else 0
        delay = min(_FIRST_DELAY * 2**deaths, _LONGEST_DELAY)
        self._after(delay, lambda: self._start(worker.placement, deaths + 1))
        say(f"Worker {pid} {'died' if code else 'ended'} {how}; another starts in {delay:g} s.")

    def _stop(self, number: signal.Signals) -> bool:
        """Tells the workers to end; false where all are to end at once."""
        if self._stopping or not self._announced:
            return False
        self._stopping = True
        settings = self._settings
        say_ending(number.name, settings.grace)
        for worker in self._workers.values():
            worker.process.terminate()
        self._due = []
        self._after(settings.drain, lambda: listening.close_door(self._listener))
        self._after(settings.drain + settings.grace + _AFTER_GRACE, self._give_up)
        return True

    def _give_up(self) -> None:
        self._failed = True
        say("Error: a worker did not end by itself.")
        self._kill()

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        self._due.append((time.monotonic() + seconds, action))

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        due = [action for when, action in self._due if when <= now]
        self._due = [(when, action) for when, action in self._due if when > now]
        for action in due:
            action()


def _be_worker(work: Work, placement: Placement, tell: Connection) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # until it serves
    placement.take()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        code = work(placement, lambda text: tell.send((True, text)))
    except CaprunError as error:
        tell.send((False, str(error)))
        code = 1
    sys.exit(code)


def _end_with_parent() -> None:
    """Ends this process when its parent has died, however it died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)
        os._exit(1)


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """Makes the folder in which the workers count, for one of them to add up."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="caprun-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CaprunError(f"No folder can be made for what the workers count; set TMPDIR: {error}.") from error
    with folder as path:
        os.environ[METRICS_FOLDER] = path
        try:
            yield
        finally:
            del os.environ[METRICS_FOLDER]


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Makes a socket that receives the number of each SIGTERM and SIGINT, as a byte."""
    hear, tell = socket.socketpair()
    tell.setblocking(False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(tell.fileno())
    try:
        yield hear
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        hear.close()
        tell.close()

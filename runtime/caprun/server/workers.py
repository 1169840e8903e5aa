"""Supervises processes that share a listening socket: starts them, restarts them if they die, and ends them.

The supervisor imports nothing heavy, and starts no thread before its last fork, so forking is safe. Each worker imports
what it computes with after it has taken its cores or its GPU.
"""

import contextlib
import logging
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

from caprun.errors import CaprunError
from caprun.server import listening
from caprun.server.placement import Placement
from caprun.server.settings import ENDING, Settings

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_RESTART_DELAY = 1.0  # seconds that the successor of a dead worker waits, in case it dies too
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_fork = multiprocessing.get_context("fork")

Work = Callable[[Placement, Callable[[str], object]], int]
"""Runs a worker until SIGTERM: calls its second argument once it serves, and returns the exit code. Raises CaprunError
if the worker cannot start."""

log = logging.getLogger(__name__)


class _Worker:
    """A process that serves."""

    def __init__(self, work: Work, placement: Placement, delay: float) -> None:
        self.placement, self.serves = placement, False
        self.said, tell = _fork.Pipe(duplex=False)
        self.process: ForkProcess = _fork.Process(target=_be_worker, args=(work, placement, tell, delay))
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # or a worker could receive one with its parent's handlers
        self.process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        tell.close()


class Supervisor:
    """Keeps a worker running for each placement."""

    def __init__(
        self, listener: socket.socket, placements: Sequence[Placement], work: Work, settings: Settings
    ) -> None:
        self._listener, self._placements, self._work, self._settings = listener, placements, work, settings
        self._workers: list[_Worker] = []
        self._announced = self._stopping = self._failed = False

    def run(self, announce: Callable[[str], object]) -> int:
        """Serves until a signal; a second signal ends all workers at once.

        When all workers serve, `announce` is called with the description from one of them.

        Returns:
            The exit code: 0; 1 if requests were left unanswered; or 128 plus the number of the second signal.

        Raises:
            CaprunError: A worker cannot start.
        """
        with _metrics_folder(), _signals() as signals:
            try:
                for placement in self._placements:
                    self._start(placement)
                while self._workers or not self._stopping:
                    numbers, dead = self._wait(signals, announce)
                    for number in numbers:
                        if self._stopping or not self._announced:
                            return 128 + number
                        self._stop(signal.Signals(number))
                    for worker in dead:
                        self._bury(worker)
                return int(self._failed)
            finally:
                for worker in self._workers:
                    worker.process.kill()
                for worker in self._workers:
                    worker.process.join()

    def _start(self, placement: Placement, delay: float = 0.0) -> None:
        self._workers.append(_Worker(self._work, placement, delay))

    def _wait(self, signals: socket.socket, announce: Callable[[str], object]) -> tuple[bytes, list[_Worker]]:
        """Waits for an event; returns the numbers of the received signals, and the workers that died."""
        talking = {worker.said: worker for worker in self._workers if not worker.said.closed}
        woken = wait([signals, *talking, *(worker.process.sentinel for worker in self._workers)])
        dead = [worker for worker in self._workers if worker.process.sentinel in woken]
        for said, worker in talking.items():
            if said in woken:
                self._hear(worker, announce)
        return signals.recv(64) if signals in woken else b"", dead

    def _hear(self, worker: _Worker, announce: Callable[[str], object]) -> None:
        try:
            heard = worker.said.recv()
        except EOFError:
            worker.said.close()
            return
        if isinstance(heard, CaprunError):
            if not self._announced:
                raise heard
            log.error("Error: a worker cannot start: %s", heard)
            return
        worker.serves = True
        if not self._announced and sum(worker.serves for worker in self._workers) == len(self._placements):
            self._announced = True
            announce(heard)

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        pid, code = worker.process.pid or 0, worker.process.exitcode or 0
        self._workers.remove(worker)
        worker.said.close()
        from caprun.server import metrics  # imported only when it is needed

        metrics.forget(pid)
        if self._stopping:
            self._failed |= code != 0 and worker.serves
            return
        how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
        if not self._announced:
            raise CaprunError(f"A worker died {how} before it served; run with --workers 1 to see the cause.")
        log.warning("Worker %d %s %s; starting another.", pid, "died" if code else "ended", how)
        self._start(worker.placement, _RESTART_DELAY)

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        log.info(ENDING, number.name, self._settings.grace)
        for worker in self._workers:
            worker.process.terminate()
        closing = threading.Timer(self._settings.drain, self._close_door)
        closing.daemon = True
        closing.start()

    def _close_door(self) -> None:
        listening.close_door(self._listener)
        self._listener.close()  # only this process's copy; `serve` then leaves a successor's Unix socket in place


def _be_worker(work: Work, placement: Placement, tell: Connection, delay: float) -> None:
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # until it serves
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    placement.take()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    time.sleep(delay)
    try:
        sys.exit(work(placement, tell.send))
    except CaprunError as error:
        tell.send(error)
        sys.exit(1)


def _end_with_parent() -> None:
    """Ends this process when its parent has died, however it died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)
        os._exit(1)


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """Creates the folder in which the workers keep their metrics, so that any of them can sum them."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="caprun-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CaprunError(f"No folder for the workers' metrics can be created: {error}; set TMPDIR.") from error
    with folder as path:
        os.environ[METRICS_FOLDER] = path
        try:
            yield
        finally:
            del os.environ[METRICS_FOLDER]


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Creates a socket that receives the number of each SIGTERM and SIGINT as a byte."""
    hear, tell = socket.socketpair()
    tell.setblocking(False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    wakeup = signal.set_wakeup_fd(tell.fileno())
    try:
        yield hear
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        hear.close()
        tell.close()

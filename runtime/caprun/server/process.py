"""One process of a service: it accepts connections, and ends so that every request that was accepted is answered."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn
from typing import Protocol as Interface

from uvicorn import Config
from uvicorn.server import ServerState

from caprun.errors import CaprunError
from caprun.server import listening
from caprun.server.house import House
from caprun.server.log import say
from caprun.server.protocol import Protocol
from caprun.server.settings import Settings

_AT_ONCE = 16  # connections accepted before anything else is looked after
_TURN = 0.0001  # seconds for each connection it has, that a process leaves new ones to the others
_LONGEST_TURN = 0.002
_HANDSHAKE = 0.1  # seconds in which a connection that has begun is made
_AFTER_ALL = 5.0  # seconds beyond the grace period in which a process ends by itself


class Served(Interface):
    """What is behind the application: `caprun.server.app.Service`."""

    draining: bool
    """Set when the process is about to end."""


class Server:
    """Serves an application on a socket until it is told to end.

    Args:
        app: of ASGI.
        service: what is behind it.
        settings: limits.
        listener: bound; it listens once the application has started.
        count: told the status of each answer that the application does not give.
        crowd: other processes accept connections of the same socket.
    """

    def __init__(
        self,
        app: Any,
        service: Served,
        settings: Settings,
        listener: socket.socket,
        count: Callable[[int], object],
        *,
        crowd: bool = False,
    ) -> None:
        self._config = Config(
            app,
            loop="asyncio",
            http="httptools",
            ws="none",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            proxy_headers=False,
        )
        self._service, self._settings, self._listener, self._crowd = service, settings, listener, crowd
        self._house = House(settings, count)
        self._state = ServerState()
        self._arriving: set[asyncio.Task[None]] = set()
        self._app_state: dict[str, Any] = {}
        self._told = asyncio.Event()
        self._all_end = False

    def drain(self, *, alone: bool = False) -> None:
        """Begin to end; once is as good as often. `alone`: other processes go on with the listening socket."""
        self._all_end = self._all_end or not alone
        self._told.set()

    async def run(self, ready: Callable[[], object]) -> int:
        """Serve.

        Args:
            ready: called when clients can connect.

        Returns:
            How many requests were left without an answer.

        Raises:
            CaprunError: it cannot start.
        """
        self._config.load()
        lifespan = self._config.lifespan_class(self._config)
        await lifespan.startup()
        if lifespan.should_exit:
            raise CaprunError("The service did not start; its log says why.")
        self._app_state = lifespan.state
        listening.listen(self._listener)
        self._open()
        ready()
        await self._told.wait()
        unanswered = await self._drain()
        if not unanswered:
            await lifespan.shutdown()
        return unanswered

    # Connections

    def _open(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._come)

    def _come(self) -> None:
        if not (self._crowd and self._state.connections):
            self._accept(_AT_ONCE)
            return
        # who has fewer connections is quicker to take the next one
        asyncio.get_running_loop().remove_reader(self._listener)
        turn = min(_TURN * len(self._state.connections), _LONGEST_TURN)
        asyncio.get_running_loop().call_later(turn, self._take_turn)

    def _take_turn(self) -> None:
        if self._listener.fileno() >= 0:
            self._open()
            self._accept(1 + len(self._state.connections) // 8)

    def _accept(self, most: float) -> None:
        accepted = 0
        while accepted < most:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptors left: some will be, when a client goes
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(_HANDSHAKE, self._take_turn)
                return
            connection.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._welcome(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)
            accepted += 1

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            # an answer's head and body are two writes, and the second would wait for the client to say it has the first
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # it is gone already
            connection.close()

    def _protocol(self) -> Protocol:
        return Protocol(self._config, self._state, self._app_state, self._house)

    # The end

    async def _drain(self) -> int:
        """Answer what is asked while others learn that we end, then what was asked until then; see `run`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.grace
        self._service.draining = self._house.draining = True
        await asyncio.sleep(min(self._settings.drain, self._settings.grace))
        if self._all_end:
            listening.close_door(self._listener)
        await asyncio.sleep(_HANDSHAKE)
        self._accept(float("inf"))
        loop.remove_reader(self._listener)
        self._listener.close()
        await self._until(lambda: not self._arriving, end)
        for connection in self._protocols():
            connection.leave(self._settings.drain)
        await self._until(lambda: not self._state.connections, end)
        unanswered = sum(connection.cut() for connection in self._protocols())
        if unanswered:
            await self._until(lambda: not self._state.connections, loop.time() + 1)
        return unanswered

    def _protocols(self) -> list[Protocol]:
        return [connection for connection in self._state.connections if isinstance(connection, Protocol)]

    async def _until(self, done: Callable[[], bool], end: float) -> None:
        while not done() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)


def serve(
    app: Any,
    service: Served,
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[], object],
    count: Callable[[int], object] = lambda _: None,
    *,
    crowd: bool = False,
    told: Callable[[Callable[[], object]], object] | None = None,
) -> int:
    """Serve until the process is told to end; see `Server`.

    Args:
        told: is handed what is to be called, from any thread, to end with all who share the socket, while SIGTERM
            ends this process alone; None: signals end it, a second one at once.

    Returns:
        The exit code: 0, or 1 where requests were left without an answer.
    """

    async def main() -> int:
        server = Server(app, service, settings, listener, count, crowd=crowd)
        loop = asyncio.get_running_loop()

        def drain(*, alone: bool = False) -> None:
            _watch(settings.grace + _AFTER_ALL)
            server.drain(alone=alone)

        def first(number: signal.Signals) -> None:
            for other in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(other, os._exit, 128 + other)
            say(f"{number.name}: answering what was asked, for {settings.grace:g} s at most; again to end at once.")
            drain()

        if told is None:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, first, number)
        else:
            loop.add_signal_handler(signal.SIGTERM, partial(drain, alone=True))
            told(lambda: loop.call_soon_threadsafe(drain))
        return await server.run(ready)

    _allow_files(2 * settings.max_connections + 256)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with asyncio.Runner() as runner:
        unanswered = runner.run(main())
        if unanswered:  # and what they wait for, nobody waits for any more
            requests = "1 request was" if unanswered == 1 else f"{unanswered} requests were"
            _give_up(f"Error: {requests} not answered within {settings.grace:g} s.")
    return 0


def _give_up(line: str) -> NoReturn:
    say(line)
    os._exit(1)


def _watch(seconds: float) -> None:
    """End the process after so many seconds whatever it does."""
    watch = threading.Timer(seconds, _give_up, ["Error: the service did not end by itself."])
    watch.daemon = True
    watch.start()


def _allow_files(wanted: int) -> None:
    """Have as many files open as there may be connections, if the system lets us."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

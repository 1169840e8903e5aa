"""One process of a service: uvicorn with its settings, and an end at which every accepted request is answered."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

import uvicorn

from caprun.server import listening
from caprun.server.app import Service, create_app
from caprun.server.settings import ENDING

_MOST_HEAD = 65_536  # bytes of a request line with its headers
_HANDSHAKE = 0.1  # seconds in which a connection that has begun is made
_AFTER_GRACE = 5.0  # seconds beyond the grace period in which a process ends by itself

log = logging.getLogger(__name__)


def serve(service: Service, listener: socket.socket, ready: Callable[[], object], *, worker: bool = False) -> int:
    """Serves until the process is told to end.

    The first SIGTERM or SIGINT turns `/readyz` to 503. Clients can still connect for `drain` seconds; then nobody can,
    and the process ends when all that was accepted is answered, after `grace` seconds at most. A second signal ends it
    at once. A worker, whose socket others go on with, ignores the second signal and leaves the socket open.

    Returns:
        The exit code: 0, or 1 where requests were left without an answer.

    Raises:
        CaprunError: Somebody else listens at the address.
    """
    settings = service.settings
    server = uvicorn.Server(server_config(service))

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def end(number: signal.Signals) -> None:
            if service.draining:
                if not worker:
                    os._exit(128 + number)
                return
            service.draining = True
            if not worker:
                log.info(ENDING, number.name, settings.grace)
            _watch(settings.drain + settings.grace + _AFTER_GRACE)
            loop.call_later(settings.drain, close_door)

        def close_door() -> None:
            if not worker:
                listening.close_door(listener)
            loop.call_later(_HANDSHAKE, setattr, server, "should_exit", True)

        listening.listen(listener)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        # in place of uvicorn's handlers, which end it without a warning to load balancers
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end, number)
        ready()
        await serving

    asyncio.run(main())
    if service.unanswered:  # what they wait for may hold threads, which nobody waits for
        requests = "1 request was" if service.unanswered == 1 else f"{service.unanswered} requests were"
        _give_up(f"Error: {requests} not answered within {settings.grace:g} s.")
    return 0


def server_config(service: Service) -> uvicorn.Config:
    """Returns uvicorn's configuration: its limits are those of the service, and it prints nothing."""
    settings = service.settings
    return uvicorn.Config(
        create_app(service),
        http="h11",
        h11_max_incomplete_event_size=_MOST_HEAD,
        ws="none",
        loop="asyncio",
        lifespan="on",
        backlog=listening.BACKLOG,
        root_path=settings.root_path,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.idle_timeout,
        timeout_graceful_shutdown=settings.grace,
        proxy_headers=False,
        server_header=False,
        headers=[("Server", "caprun")],
        access_log=False,
        log_config=None,
        log_level="critical",
    )


def _give_up(line: str) -> NoReturn:
    log.error(line)
    os._exit(1)


def _watch(seconds: float) -> None:
    """Ends the process after so many seconds, whatever it does."""
    watch = threading.Timer(seconds, _give_up, ["Error: the service did not end by itself."])
    watch.daemon = True
    watch.start()

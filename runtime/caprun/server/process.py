"""Runs one process of a service: uvicorn with the service's limits, and a graceful shutdown."""

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
_HANDSHAKE = 0.1  # seconds in which a started connection is established
_AFTER_GRACE = 5.0  # seconds after the grace period in which a process must have ended

log = logging.getLogger(__name__)


def serve(service: Service, listener: socket.socket, ready: Callable[[], object], *, worker: bool = False) -> int:
    """Serves until the process is told to end.

    After the first SIGTERM or SIGINT, `/readyz` returns 503. Clients can still connect for `drain` seconds; then the
    process ends once all accepted requests are answered, after `grace` seconds at most. A second signal ends it at
    once. A worker ignores the second signal, and leaves open the socket that it shares.

    Returns:
        The exit code: 0, or 1 if requests were left unanswered.

    Raises:
        CaprunError: Another process listens at the address.
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
        # replaces uvicorn's handlers, which end it without warning load balancers
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end, number)
        ready()
        await serving

    asyncio.run(main())
    if service.unanswered:  # their threads may still be running, so the process does not wait for them
        requests = "1 request was" if service.unanswered == 1 else f"{service.unanswered} requests were"
        _give_up(f"Error: {requests} not answered within {settings.grace:g} s.")
    return 0


def server_config(service: Service) -> uvicorn.Config:
    """Returns a configuration for uvicorn with the service's limits and without logging."""
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
    """Ends the process after `seconds`, whatever it is doing."""
    watch = threading.Timer(seconds, _give_up, ["Error: the service did not stop in time."])
    watch.daemon = True
    watch.start()

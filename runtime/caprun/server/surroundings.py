"""What every answer has in common: its headers, its place in the counters, and that a fault is answered too."""

import logging
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from caprun.server import answers

if TYPE_CHECKING:
    from caprun.server.app import Service

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of answers that do not say otherwise."""
_PATHS = {"/", "/v1/caption", "/v1/model", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"}
_FAULT = answers.encode(answers.Error(error="The service failed, and the log says how; please report it."))

log = logging.getLogger(__name__)


class Surroundings:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: "Service") -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the same without the body, which the server leaves out
            scope = {**scope, "method": "GET"}
        # a path that a client made up is not counted by its name: there is no end of them
        path = scope["path"] if scope["path"] in _PATHS else "other"
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self.service.draining:
                    headers["Connection"] = "close"
                self.service.metrics.answered(path, message["status"])
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:
            if started:
                raise
            log.exception("A request failed.")
            length = str(len(_FAULT)).encode()
            head = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
            await sending({"type": "http.response.start", "status": 500, "headers": head})
            await sending({"type": "http.response.body", "body": _FAULT})

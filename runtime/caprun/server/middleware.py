"""Middleware for all responses: default headers, metrics, the API key, and errors in one sentence."""

import asyncio
import hmac
import logging
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from caprun.server.refusal import Refusal, error_response, refusal_for, shutting_down

if TYPE_CHECKING:
    from caprun.server.app import Service

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Default headers of responses."""
PAGE_HEADERS = HEADERS | {
    # Only this service's own files, and photos that the page itself holds; no inline scripts or styles.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Updates are seen at once, and unchanged files are not sent again.
    "Cache-Control": "no-cache",
}
"""Default headers of the pages' responses."""

_COUNTED = {"/", "/v1/caption", "/v1/model", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"}

log = logging.getLogger(__name__)


class ServiceMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: "Service") -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # answered like GET; the server omits the body
            scope = {**scope, "method": "GET"}
        prefix = scope.get("root_path", "")  # which the server prepends to every path
        if prefix and scope["path"].startswith(f"{prefix}{prefix}/"):  # the proxy has not removed it
            scope = {**scope, "path": scope["path"].removeprefix(prefix)}
        path = scope["path"].removeprefix(prefix)
        counted = path if path in _COUNTED else "other"  # clients can make up any number of paths
        is_page = path in ("/", "/docs") or path.startswith("/page/")
        headers = Headers(scope=scope)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        started = False

        async def receive_all() -> Message:
            nonlocal has_body
            message = await receive()
            has_body = has_body and message.get("more_body", False)
            return message

        async def send_all(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message["headers"])
                for name, value in (PAGE_HEADERS if is_page else HEADERS).items():
                    headers.setdefault(name, value)
                # closing a connection before the body has arrived resets it, which can lose the response
                if self.service.draining and not has_body:
                    headers["Connection"] = "close"
                self.service.metrics.requests.labels(counted, message["status"]).inc()
            await send(message)

        try:
            if path.startswith("/v1/") and not self._may_ask(headers):
                raise Refusal(401, "The API key is missing or wrong; send it in Authorization: Bearer KEY.")
            await self.app(scope, receive_all, send_all)
        except asyncio.CancelledError:
            if started or not self.service.draining:
                raise
            self.service.unanswered += 1  # the grace period is over
            await error_response(shutting_down())(scope, receive, send_all)
        except Exception as error:
            if started:
                raise
            refusal = refusal_for(error)
            if refusal.status == 500:
                log.exception("A request failed.")
            if refusal.reason is not None:
                self.service.metrics.refused.labels(refusal.reason).inc()
            await error_response(refusal)(scope, receive, send_all)

    def _may_ask(self, headers: Headers) -> bool:
        key = self.service.settings.api_key
        kind, _, given = headers.get("authorization", "").partition(" ")
        if key is None:
            return True
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), key.encode())

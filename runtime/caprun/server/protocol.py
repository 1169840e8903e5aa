"""One connection: HTTP/1.1 by httptools and uvicorn, with limits on what a client may send and how long it may take.

What is refused here, before the application sees it, is answered like everything else: a status and one sentence. A
connection is closed so that the answer arrives: what a client still sends is read and thrown away for a while, because
a socket closed with bytes unread in it is reset, and the reset takes the answer with it.
"""

import asyncio
import urllib.parse
from typing import Any

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from caprun.server.house import House
from caprun.server.lingering import LingeringTransport

MOST_HEAD = 65_536
"""Bytes of a request line with its headers; and of what may stand between two pieces of a chunked body."""
MOST_HEADERS = 100
MOST_PIPELINED = 16
"""Requests that one connection may have waiting for the answer to another."""


class _Refused(Exception):  # noqa: N818  (a request is)
    """A request that is not to be taken."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Cycle(RequestResponseCycle):
    """One request and its answer."""

    house: House

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Answer; what the application makes of a client that left is no error."""

        async def guarded(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            except Exception:
                if not self.disconnected:
                    raise

        await super().run_asgi(guarded)

    async def send(self, message: ASGISendEvent) -> None:
        """Send; an answer that comes before the whole request, or while the process ends, closes the connection."""
        if message["type"] == "http.response.start":
            if self.more_body or self.house.draining:
                self.keep_alive = False
            headers = list(message.get("headers", []))
            if not self.keep_alive and not any(name.lower() == b"connection" for name, _ in headers):
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await super().send(message)

    def forsake(self) -> None:
        """Tell the application that nobody waits for its answer."""
        self.disconnected = True
        self.message_event.set()


class Protocol(HttpToolsProtocol):
    """A connection. Its transport is a `LingeringTransport`."""

    transport: LingeringTransport

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], house: House) -> None:
        super().__init__(config, server_state, app_state, asyncio.get_running_loop())
        self.house, self.settings = house, house.settings
        self.timeout_keep_alive: float = self.settings.idle_timeout  # type: ignore[assignment]
        self._awaited: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._slow_reader: asyncio.TimerHandle | None = None
        self._opened = 0.0
        self._asked = False  # anything, ever
        self._in_head = False
        self._quiet = 0  # bytes that brought neither a whole head nor a part of a body
        self._moved = False
        self._fields = 0
        self._receiving: Cycle | None = None  # whose body has not ended
        self._answering: Cycle | None = None
        self._stopped = False  # nothing more is taken from this client
        self._last_words: bytes | None = None  # to be said after all answers

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a client, or say that there are too many."""
        lingering = LingeringTransport(transport, self, self.loop, self.settings.body_timeout)
        if len(self.connections) >= self.settings.max_connections:
            self._turn_away(lingering)
            return
        super().connection_made(lingering)
        self._opened = self.loop.time()
        self._wait("request", self.settings.idle_timeout)

    def _turn_away(self, transport: LingeringTransport) -> None:
        self.transport, self.flow, self._stopped = transport, FlowControl(transport), True
        self.house.turned_away += 1
        if self.house.turned_away > self.settings.max_connections // 4 + 1:
            transport.abort()
            return
        sentence = "The service has too many connections; try again soon."
        transport.write(self.house.refusal(503, sentence, (b"retry-after", b"1")))
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client, and tell the application of it."""
        if self not in self.connections:
            self.house.turned_away -= 1
            return
        self._wait(None)
        self.resume_writing()
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.forsake()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def eof_received(self) -> None:
        """A client that goes in the middle of a request may still want to read what was wrong with it."""
        if not self._stopped and (self._in_head or self._receiving):
            self._refuse(400, "The request ended before it was whole.")

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        self._slow_reader = self.loop.call_later(self.settings.body_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._slow_reader is not None:
            self._slow_reader.cancel()
            self._slow_reader = None

    def _wait(self, what: str | None, seconds: float = 0.0) -> None:
        """Wait for a request, or the rest of its head; it goes on if it is that which is awaited already."""
        if what == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._awaited, self._timer = what, None
        if what is not None:
            self._timer = self.loop.call_later(seconds, self._refuse, 408, f"The {what} took too long to arrive.")

    # The end of a process

    @property
    def busy(self) -> bool:
        """Whether a request has begun that is not answered."""
        return self._in_head or self._receiving is not None or self._answering is not None or bool(self.pipeline)

    def leave(self, patience: float) -> None:
        """Close the connection if nothing is asked on it; one that never asked has some seconds to do so."""
        if self.busy or self.transport.is_closing():
            return
        left = self._opened + patience - self.loop.time()
        if self._asked:
            self.transport.hang_up()
        elif left > 0:
            self.loop.call_later(left, self.leave, 0.0)
        else:
            self._say_last(self.house.goodbye())

    def cut(self) -> int:
        """Close the connection whatever is asked on it; returns how many requests go unanswered by that."""
        if self.transport.is_closing():
            return 0
        lost = len(self.pipeline) + (self._answering is not None or self._in_head)
        for cycle in (self._answering, self._receiving):
            if cycle is not None:
                cycle.forsake()
        if self._answering is not None and self._answering.response_started:
            self.transport.abort()
        else:
            self._say_last(self.house.goodbye())
        return lost

    # The request

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._stopped:
            return
        self._asked = True
        self._unset_keepalive_if_required()
        try:
            self._parse(memoryview(data))
        except _Refused as refused:
            self._refuse(refused.status, refused.sentence)
        except httptools.HttpParserUpgrade:
            self._stopped = True  # to another protocol, which is not spoken here; what was asked is answered
            self._wait(None)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, _Refused):
                self._refuse(cause.status, cause.sentence)
            elif isinstance(cause, httptools.HttpParserError | UnicodeDecodeError):
                self._refuse(400, "The request's address is not a valid URL.")
            else:
                raise
        except httptools.HttpParserError as error:
            self._refuse(400, f"This is not valid HTTP/1.1: {error}.")
        if not self._stopped:
            self._watch()

    def _parse(self, data: memoryview) -> None:
        start = 0
        while start < len(data) and not self._stopped:
            piece = data[start : start + MOST_HEAD - self._quiet]
            self._moved = False
            self.parser.feed_data(piece)
            self._quiet = 0 if self._moved else self._quiet + len(piece)
            start += len(piece)
            if self._quiet < MOST_HEAD:
                continue
            if self._receiving is not None:
                raise _Refused(400, "There is too much between the pieces of the body.")
            if not self._fields:
                raise _Refused(414, f"The request's address is too long: with the headers, at most {MOST_HEAD} bytes.")
            raise _Refused(431, f"The request's headers are too long: at most {MOST_HEAD} bytes.")

    def _watch(self) -> None:
        """Give a head that has begun its time; while another request is answered, time does not count."""
        begun = self._answering is None and (self._in_head or self._quiet)
        self._wait("request's head" if begun else None, self.settings.body_timeout)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._fields = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer after the body is counted and not kept."""
        self._fields += 1
        if self._fields > MOST_HEADERS:
            raise _Refused(431, f"The request has too many headers: at most {MOST_HEADERS}.")
        if self._receiving is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the application on it, or queue it behind the one that is being answered."""
        self._in_head, self._moved = False, True
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self._check(version, method)
        url = httptools.parse_url(self.url)
        raw_path: bytes = url.path or b"/"
        self.scope["method"] = method.decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = urllib.parse.unquote(raw_path.decode("ascii"))
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = url.query or b""
        cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.house.headers(),
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version == "1.1",
            keep_alive=version == "1.1" and self.parser.should_keep_alive() and not self.parser.should_upgrade(),
            on_response=self.on_response_complete,
        )
        cycle.house = self.house
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _Refused(429, f"At most {MOST_PIPELINED} requests may wait for others on their connection.")
        self.cycle = self._receiving = cycle
        if self._answering is None:
            self._begin(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _check(self, version: str, method: bytes) -> None:
        if version not in ("1.0", "1.1"):
            raise _Refused(505, f"HTTP/{version} is not spoken here; use HTTP/1.1.")
        if method == b"CONNECT":
            raise _Refused(405, f"{method.decode()} is not allowed here.")
        names = [name for name, _ in self.headers]
        if names.count(b"host") != 1 and (version == "1.1" or b"host" in names):
            raise _Refused(400, "The request must have one header Host.")
        body = b"content-length" in names or b"transfer-encoding" in names
        for name, value in self.headers:
            if name == b"transfer-encoding" and (version == "1.0" or value.strip().lower() != b"chunked"):
                raise _Refused(501, "Transfer-Encoding is chunked, with HTTP/1.1, or nothing; leave out any other.")
            if name == b"upgrade" and self.parser.should_upgrade() and (body or value.lower() == b"websocket"):
                raise _Refused(400, "The service speaks HTTP/1.1 and cannot upgrade; leave out the header Upgrade.")

    def _begin(self, cycle: Cycle, app: ASGI3Application) -> None:
        self._answering = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """A part of the body came."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._moved, self._receiving = True, None
        super().on_message_complete()

    # The answer

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            assert isinstance(cycle, Cycle)
            self._begin(cycle, app)
        elif self._last_words is not None:
            self._say_last(self._last_words)
        elif self._stopped or self.house.draining:
            self.transport.close()
        elif self._in_head or self._quiet:
            self._watch()
        else:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.transport.hang_up)

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what cannot be taken, after what was asked before it; then close."""
        if self.transport.is_closing():
            return
        self._stopped = True
        words, refused = self.house.refusal(status, sentence), self._receiving
        if refused is None and self._answering is None:
            self._say_last(words)
        elif refused is None:
            self._last_words = words
        elif refused is not self._answering:  # it waits behind others
            self.pipeline.popleft()
            self._last_words = words
        elif not refused.response_started:  # else it has its answer, which closes the connection
            refused.forsake()
            self._say_last(words)

    def _say_last(self, words: bytes) -> None:
        self._stopped = True
        self._wait(None)
        self.transport.write(words)
        self.transport.close()

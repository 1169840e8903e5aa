"""Clients of a service: what is sent and how long each answer takes, by as little code as HTTP/1.1 needs.

They share the machine's cores with the service that they measure, so that what they take themselves counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Answer(NamedTuple):
    """What became of a request."""

    status: int
    """0: the connection was refused before anything was sent; -1: it broke while an answer was awaited."""
    seconds: float
    closes: bool = True
    """The connection cannot be used again."""


REFUSED, LOST = 0, -1


@dataclass
class Seen:
    """What a load saw."""

    started: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    seconds: dict[int, list[float]] = field(default_factory=dict)
    """By status."""

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.seconds.setdefault(answer.status, []).append(answer.seconds)

    @property
    def statuses(self) -> Counter[int]:
        """How many answers by status."""
        return Counter({status: len(times) for status, times in self.seconds.items()})

    @property
    def rate(self) -> float:
        """Captions a second."""
        return len(self.seconds.get(200, ())) / (self.ended - self.started)

    def percentile(self, percent: float, status: int = 200) -> float:
        """Milliseconds within which so many per cent of the answers of a status came."""
        times = sorted(self.seconds.get(status, ()))
        if not times:
            return float("nan")
        return 1000 * times[min(len(times) - 1, int(len(times) * percent / 100))]


def request(photo: bytes, path: str = "/v1/caption") -> bytes:
    """A POST of a photo, ready to be written."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
    return head.encode("ascii") + photo


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiting: asyncio.Future[tuple[int, bool]] | None = None
        self.open = False

    @classmethod
    async def to(cls, host: str, port: int) -> Connection:
        """Connect; OSError where nobody listens."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def ask(self, content: bytes) -> Answer:
        """Send a request and wait for its answer."""
        assert self._transport
        self._received.clear()
        self._waiting = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._transport.write(content)
        status, closes = await self._waiting
        return Answer(status, time.perf_counter() - began, closes)

    def close(self) -> None:
        """Close it."""
        self.open = False
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._received += data
        head, blank, body = bytes(self._received).partition(b"\r\n\r\n")
        if not blank or self._waiting is None or self._waiting.done():
            return
        first, *lines = head.decode("latin-1").lower().split("\r\n")
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        if status == 100:
            del self._received[: len(head) + 4]
        elif len(body) >= int(fields.get("content-length", 0)):
            self._waiting.set_result((status, fields.get("connection") == "close"))

    def connection_lost(self, _error: Exception | None) -> None:  # noqa: D102
        self.open = False
        if self._waiting and not self._waiting.done():
            self._waiting.set_result((LOST, True))


async def _connected(connection: Connection | None, port: int, seen: Seen, host: str) -> Connection | None:
    """That connection if it is open, else a new one; None, and counted, where nobody listens."""
    if connection is not None and connection.open:
        return connection
    try:
        return await Connection.to(host, port)
    except OSError:
        seen.add(Answer(REFUSED, 0.0))
        return None


async def closed_loop(
    port: int, requests: Sequence[bytes], clients: int, go_on: Callable[[], bool], *, host: str = "127.0.0.1"
) -> Seen:
    """`clients` clients, each of which asks again as soon as it is answered."""
    seen = Seen()
    turns = iter(range(10**12))

    async def client() -> None:
        connection = None
        while go_on():
            content = requests[next(turns) % len(requests)]
            connection = await _connected(connection, port, seen, host)
            if connection is None:
                return
            answer = await connection.ask(content)
            seen.add(answer)
            if answer.closes:
                connection.close()
        if connection:
            connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    seen.ended = time.perf_counter()
    return seen


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    seed: int = 0,
    every: Callable[[Seen], None] | None = None,
    host: str = "127.0.0.1",
) -> Seen:
    """Requests that come at random times (a Poisson process), `rate` a second, whatever became of those before.

    A request's time counts from when it was due, so that a service cannot hide what it makes wait. `every` is called
    once a second.
    """
    seen, idle, tasks = Seen(), list[Connection](), set[asyncio.Task[None]]()
    draw = random.Random(seed)

    async def one(content: bytes, due: float) -> None:
        connection = None
        while idle and (connection is None or not connection.open):
            connection = idle.pop()
        connection = await _connected(connection, port, seen, host)
        if connection is None:
            return
        answer = await connection.ask(content)
        seen.add(answer._replace(seconds=time.perf_counter() - due))
        if answer.closes:
            connection.close()
        else:
            idle.append(connection)

    async def watch() -> None:
        while every:
            await asyncio.sleep(1)
            every(seen)

    watching = asyncio.create_task(watch())
    due, turn = time.perf_counter(), 0
    while due - seen.started < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(requests[turn % len(requests)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        turn += 1
        due += draw.expovariate(rate)
    await asyncio.gather(*tasks)
    seen.ended = time.perf_counter()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    for connection in idle:
        connection.close()
    return seen

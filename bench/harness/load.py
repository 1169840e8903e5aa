"""HTTP clients that load a service and time its answers.

The clients share the cores of the machine with the service, so their own cost distorts the figures. They write HTTP/1.1
over asyncio streams, which took 0.06 ms of CPU time per request; httpx took 2.8 ms, a sixth of the time of a caption.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

HOST = "127.0.0.1"
REFUSED, LOST = 0, -1
"""Statuses of requests without an answer: the connection was refused, or it broke before the answer was complete."""


class Answer(NamedTuple):
    """The outcome of a request."""

    status: int
    """HTTP status, `REFUSED` or `LOST`."""
    seconds: float
    closes: bool = True
    """True if the service closes the connection."""


@dataclass
class Outcomes:
    """The outcomes of all requests of a load."""

    started: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    seconds: dict[int, list[float]] = field(default_factory=dict)
    """Response times by status."""

    def add(self, answer: Answer) -> None:
        """Counts an answer."""
        self.seconds.setdefault(answer.status, []).append(answer.seconds)

    @property
    def statuses(self) -> Counter[int]:
        """The number of answers by status."""
        return Counter({status: len(times) for status, times in self.seconds.items()})

    @property
    def rate(self) -> float:
        """Captions per second."""
        return len(self.seconds.get(200, ())) / (self.ended - self.started)

    def percentile(self, percent: float, status: int = 200) -> float:
        """Returns a percentile of the response times of a status in milliseconds; NaN without such answers."""
        times = self.seconds.get(status)
        return 1000 * float(np.percentile(times, percent)) if times else float("nan")


def request(photo: bytes, path: str = "/v1/caption") -> bytes:
    """Formats a POST request with a photo."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
    return head.encode("ascii") + photo


class Connection:
    """A connection that carries one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Connection:
        """Connects; raises OSError if nothing listens."""
        return cls(*await asyncio.open_connection(HOST, port))

    @property
    def open(self) -> bool:
        """True if another request can be sent."""
        return not (self._writer.is_closing() or self._reader.at_eof())

    async def ask(self, content: bytes) -> Answer:
        """Sends a request and waits for the complete answer."""
        began = time.perf_counter()
        try:
            self._writer.write(content)
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").lower().split("\r\n")
            fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
            await self._reader.readexactly(int(fields.get("content-length", 0)))
        except (OSError, asyncio.IncompleteReadError):
            return Answer(LOST, time.perf_counter() - began)
        return Answer(int(first.split()[1]), time.perf_counter() - began, fields.get("connection") == "close")

    def close(self) -> None:
        """Closes the connection at once."""
        self._writer.transport.abort()


async def _connected(connection: Connection | None, port: int, outcomes: Outcomes) -> Connection | None:
    """Returns an open connection, or None if the service refuses one, which is counted."""
    if connection is not None and connection.open:
        return connection
    try:
        return await Connection.to(port)
    except OSError:
        outcomes.add(Answer(REFUSED, 0.0))
        return None


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, go_on: Callable[[], bool]) -> Outcomes:
    """Runs clients that each send the next request as soon as the last one is answered."""
    outcomes, contents = Outcomes(), itertools.cycle(requests)

    async def client() -> None:
        connection = None
        while go_on():
            connection = await _connected(connection, port, outcomes)
            if connection is None:
                return
            answer = await connection.ask(next(contents))
            outcomes.add(answer)
            if answer.closes:
                connection.close()
        if connection:
            connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcomes.ended = time.perf_counter()
    return outcomes


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    seed: int = 0,
    every_second: Callable[[], object] | None = None,
) -> Outcomes:
    """Sends requests as a Poisson process, whether or not earlier ones are answered.

    The time of a request counts from the moment it was due, so it includes the wait for a connection.

    Args:
        port: port of the service.
        requests: requests to send, repeated in a cycle.
        rate: mean number of requests per second.
        seconds: duration of the load.
        seed: seed of the process.
        every_second: called once per second.
    """
    outcomes, idle, tasks = Outcomes(), list[Connection](), set[asyncio.Task[None]]()
    draw = random.Random(seed)

    async def one(content: bytes, due: float) -> None:
        connection = None
        while idle and (connection is None or not connection.open):
            connection = idle.pop()
        connection = await _connected(connection, port, outcomes)
        if connection is None:
            return
        answer = await connection.ask(content)
        outcomes.add(answer._replace(seconds=time.perf_counter() - due))
        if answer.closes:
            connection.close()
        else:
            idle.append(connection)

    async def watch() -> None:
        while every_second:
            await asyncio.sleep(1)
            every_second()

    watching = asyncio.create_task(watch())
    due, contents = time.perf_counter(), itertools.cycle(requests)
    while due - outcomes.started < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(next(contents), due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += draw.expovariate(rate)
    await asyncio.gather(*tasks)
    outcomes.ended = time.perf_counter()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    for connection in idle:
        connection.close()
    return outcomes

"""A service begins when it can answer, and ends when all that was asked is answered."""

import asyncio
import http.client
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun.inference import hardware
from caprun.server import listening
from caprun.server.process import Server
from caprun.server.settings import Settings
from tests.caprun.server.support.serving import (
    LONG,
    Serving,
    answer,
    command,
    head,
    is_closed,
    read_answers,
    serving,
    until,
)


@pytest.fixture
def service(tiny: Path) -> Iterator[Serving]:
    with serving(tiny, "--drain", 0.5) as running:
        yield running


def begin(service: Serving, size: int = 1000) -> socket.socket:
    """A request whose body does not come."""
    client = service.connect()
    client.sendall(head("/v1/caption", "POST", f"Content-Length: {size}") + b"some of it")
    return client


def hold_open(client: socket.socket, service: Serving) -> None:
    """Wait until the service has read what a client sent."""
    until(lambda: service.get("/healthz").status == 200)


def test_it_says_once_where_it_serves_and_what(service: Serving) -> None:
    assert service.lines == [f"tiny (fp32 on cpu) serves at http://127.0.0.1:{service.port}; Ctrl-C ends it."]
    assert service.get("/readyz").status == 200


def test_it_listens_to_this_machine_alone(service: Serving) -> None:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{service.port:04X}")]
    assert listening == [f"0100007F:{service.port:04X}"]


def test_an_answer_says_when_it_was_given_and_by_what(service: Serving) -> None:
    headers = service.get("/healthz").headers
    assert headers["server"] == "caprun"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])


def test_what_a_proxy_says_of_its_client_is_not_believed(tiny: Path) -> None:
    with serving(tiny, environment={"FORWARDED_ALLOW_IPS": "*", "WEB_CONCURRENCY": "3"}) as service:
        assert service.get("/healthz", **{"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}).status == 200
        # a redirect would go where the proxy says, if it were believed
        location = service.get("/v1/caption/", **{"X-Forwarded-Proto": "https"}).headers.get("location", "")
        assert "https" not in location


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_when_nothing_is_asked(service: Serving, number: signal.Signals) -> None:
    service.signal(number)
    assert service.ends() == 0
    assert service.lines[1:] == [f"{number.name}: answering what was asked, for 20 s at most; again to end at once."]


def test_for_a_while_after_the_signal_it_answers_and_says_that_it_is_not_ready(tiny: Path) -> None:
    with serving(tiny, "--drain", 30, "--grace", 60) as service:
        idle = http.client.HTTPConnection("127.0.0.1", service.port)
        idle.request("GET", "/healthz")
        assert answer(idle.getresponse()).headers.get("connection") is None
        service.signal()
        service.wait_for("SIGTERM")
        time.sleep(0.5)
        late = service.get("/readyz")
        assert late.status == 503
        assert late.headers["connection"] == "close"
        idle.request("GET", "/healthz")
        last = answer(idle.getresponse())
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert idle.sock is None or is_closed(idle.sock)


def test_after_that_nobody_can_connect_and_idle_connections_are_closed(service: Serving) -> None:
    with service.connect() as idle, begin(service) as asking:
        idle.sendall(head("/healthz", "GET"))
        assert next(read_answers(idle)).status == 200
        service.signal()
        assert is_closed(idle)
        until(lambda: refuses(service), "no more connections")
        asking.sendall(b"x" * 990)
        (last,) = read_answers(asking)
        assert (last.status, last.headers["connection"]) == (415, "close")
        assert service.ends() == 0


def refuses(service: Serving) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", service.port), 0.2):
            return False
    except OSError:
        return True


def test_a_connection_on_which_nothing_was_asked_is_told_so(service: Serving) -> None:
    with service.connect() as silent:
        service.signal()
        (only,) = read_answers(silent)
        assert (only.status, only.headers["retry-after"], only.headers["connection"]) == (503, "5", "close")
        assert "shutting down" in only.error
    assert service.ends() == 0


def test_what_is_not_answered_in_the_grace_period_is_answered_503_and_counted(tiny: Path) -> None:
    with serving(tiny, "--grace", 1, "--drain", 0.1) as service, begin(service) as first, begin(service) as second:
        hold_open(first, service)
        service.signal()
        for client in (first, second):
            (last,) = read_answers(client)
            assert last.status == 503
        assert service.ends() == 1
        assert service.lines[2:] == ["Error: 2 requests were not answered within 1 s."]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_now(service: Serving, number: signal.Signals, code: int) -> None:
    with begin(service) as asking:
        hold_open(asking, service)
        service.signal(number)
        service.wait_for(number.name)
        service.signal(number)
        assert service.ends() == code
        assert len(service.lines) == 2


class Load:
    """Clients that ask without a break, each request on a connection of its own or all on one."""

    def __init__(self, service: Serving, photo: bytes, clients: int) -> None:
        self.service, self.photo, self.seen, self.wrong = service, photo, Counter[int](), list[str]()
        self.threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self, keep: bool) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=60)
            try:
                connection.connect()
            except OSError:  # it was not accepted
                return
            try:
                while True:
                    connection.request("POST", "/v1/caption", self.photo)
                    last = answer(connection.getresponse())
                    self.seen[last.status] += 1
                    if not keep or last.headers.get("connection") == "close":
                        break
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                return
            finally:
                connection.close()


@pytest.mark.parametrize("attempt", range(3))
def test_under_load_every_request_that_was_accepted_is_answered(tiny: Path, photo: Path, attempt: int) -> None:
    with serving(tiny, "--drain", (0, 0.05, 0.5)[attempt]) as service:
        load = Load(service, photo.read_bytes(), clients=8)
        until(lambda: load.seen[200] > 20)
        service.signal()
        code = service.ends()
        for thread in load.threads:
            thread.join(60)
        assert (load.wrong, code) == ([], 0)
        assert load.seen.keys() <= {200, 503, 429}


def test_connections_nobody_has_accepted_yet_are_answered_too(service: Serving, photo: Path) -> None:
    service.signal(signal.SIGSTOP)
    clients = [service.connect() for _ in range(40)]
    for client in clients:
        client.sendall(head("/healthz", "GET"))
    service.signal(signal.SIGTERM)
    service.signal(signal.SIGCONT)
    assert [next(read_answers(client)).status for client in clients] == [200] * 40
    assert service.ends() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the door is closed as Linux does")
def test_when_the_door_is_closed_nobody_connects_and_those_inside_are_not_turned_out() -> None:
    with listening.bind("127.0.0.1", 0) as listener:
        listening.listen(listener)
        with socket.create_connection(listener.getsockname()) as inside:
            listening.close_door(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(listener.getsockname(), 0.3)
            taken, _ = listener.accept()
            with taken:
                inside.sendall(b"still here")
                taken.settimeout(LONG)
                assert taken.recv(20) == b"still here"


def test_a_client_that_resets_its_connection_costs_nothing(service: Serving) -> None:
    for _ in range(20):
        client = begin(service)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    assert service.get("/healthz").status == 200
    service.signal()
    assert (service.ends(), len(service.lines)) == (0, 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_need_read_what_it_says(tiny: Path, workers: int) -> None:
    if hardware.cores().usable < workers:
        pytest.skip("two workers want two cores")
    with subprocess.Popen(command(tiny, "--workers", workers), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"serves at" in process.stderr.readline()
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(LONG) == 0
        finally:
            process.kill()


def test_streams_that_are_closed_are_opened_to_nowhere(tiny: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files are read as Linux shows them")
    closing = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *command(tiny)]
    with subprocess.Popen(closing, stderr=subprocess.PIPE, text=True) as process:
        try:
            service = Serving(process)
            service.wait_for("serves at")
            for number in (0, 1):
                assert Path(f"/proc/{process.pid}/fd/{number}").readlink() == Path(os.devnull)
            service.signal()
            assert (service.ends(), len(service.lines)) == (0, 2)
        finally:
            process.kill()


def test_the_second_part_of_an_answer_does_not_wait_for_the_client_to_acknowledge_the_first() -> None:
    delays = list[bool]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            (connection,) = server._state.connections
            accepted = connection.transport.get_extra_info("socket")
            delays.append(not accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    async def ask() -> None:
        nonlocal server
        server = Server(app, SimpleNamespace(draining=False), Settings(drain=0), listener, lambda _: None)
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready.set))
        await asyncio.wait_for(ready.wait(), LONG)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(head("/", "GET"))
        assert await reader.readline() == b"HTTP/1.1 204 No Content\r\n"
        writer.close()
        server.drain()
        assert await asyncio.wait_for(running, LONG) == 0

    server: Any = None
    with listening.bind("127.0.0.1", 0) as listener:
        asyncio.run(ask())
    assert delays == [False]


def test_an_idle_service_uses_hardly_any_processor_time(service: Serving, photo: Path) -> None:
    stat = Path(f"/proc/{service.process.pid}/stat")
    if not stat.exists():
        pytest.skip("processor time is read as Linux shows it")
    assert service.post(photo.read_bytes()).status == 200

    def ticks() -> int:  # hundredths of a second
        return sum(map(int, stat.read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]))

    before = ticks()
    time.sleep(2)
    assert ticks() - before <= 10

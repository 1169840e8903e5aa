"""One service process: its start, its shutdown without losing requests, and the limits of its server."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun.server import listening
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
    with serving(tiny, "--drain", 0.2) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tiny: Path) -> Iterator[Serving]:
    """A service that runs for the whole module."""
    with serving(tiny, environment={"WEB_CONCURRENCY": "3"}) as running:  # which uvicorn would read
        yield running


def begin(service: Serving, size: int = 1000) -> socket.socket:
    """Sends a request without the rest of its body; returns the connection."""
    client = service.connect()
    client.sendall(head("/v1/caption", "POST", f"Content-Length: {size}") + b"some of it")
    return client


def test_it_prints_one_line_with_its_model_and_address(shared: Serving) -> None:
    assert shared.lines == [f"Serving tiny (fp32 on cpu) at http://127.0.0.1:{shared.port}; press Ctrl-C to stop."]
    assert shared.get("/readyz").status == 200


def test_it_listens_only_on_the_loopback_interface(shared: Serving) -> None:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{shared.port:04X}")]
    assert listening == [f"0100007F:{shared.port:04X}"]


def test_responses_have_date_and_server_headers(shared: Serving) -> None:
    headers = shared.get("/healthz").headers
    assert headers["server"] == "caprun"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_service_with_exit_code_0(service: Serving, number: signal.Signals) -> None:
    service.signal(number)
    assert service.ends() == 0
    assert service.lines[1:] == [
        f"{number.name}: answering accepted requests for at most 20 s; send it again to end at once."
    ]


def test_while_it_drains_it_answers_and_reports_that_it_is_not_ready(tiny: Path) -> None:
    with serving(tiny, "--drain", 30, "--grace", 60) as service:
        idle = http.client.HTTPConnection("127.0.0.1", service.port)
        idle.request("GET", "/healthz")
        assert answer(idle.getresponse()).headers.get("connection") is None
        service.signal()
        service.wait_for("SIGTERM")
        late = service.get("/readyz")
        assert late.status == 503
        assert late.headers["connection"] == "close"
        idle.request("GET", "/healthz")
        last = answer(idle.getresponse())
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert idle.sock is None or is_closed(idle.sock)


def test_after_the_drain_it_answers_accepted_requests_and_no_new_ones(service: Serving) -> None:
    with service.connect() as idle, begin(service) as asking:
        idle.sendall(head("/healthz", "GET"))
        assert next(read_answers(idle)).status == 200
        service.signal()
        assert is_closed(idle)
        until(lambda: refuses(service), "no more connections")
        asking.sendall(b"x" * 991)
        (last,) = read_answers(asking)
        assert (last.status, last.headers["connection"]) == (415, "close")
        assert service.ends() == 0


def refuses(service: Serving) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", service.port), 0.2):
            return False
    except OSError:
        return True


def test_requests_unanswered_in_the_grace_period_get_503_and_are_counted(tiny: Path) -> None:
    with serving(tiny, "--grace", 1, "--drain", 0) as service, begin(service) as first, begin(service) as second:
        assert service.get("/healthz").status == 200  # the service has now read what the two clients sent
        service.signal()
        for client in (first, second):
            (last,) = read_answers(client)
            assert (last.status, "shutting down" in last.error) == (503, True)
        assert service.ends() == 1
        assert service.lines[2:] == ["Error: 2 requests were not answered within 1 s."]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(service: Serving, number: signal.Signals, code: int) -> None:
    with begin(service):
        service.signal(number)
        service.wait_for(number.name)
        service.signal(number)
        assert service.ends() == code
        assert len(service.lines) == 2


class Load:
    """Clients that send requests without a pause; every other one opens a new connection for each request."""

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
            except OSError:  # the connection was not accepted
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


def test_every_accepted_request_is_answered_under_load(tiny: Path, photo: Path) -> None:
    with serving(tiny, "--drain", 0.2) as service:
        load = Load(service, photo.read_bytes(), clients=8)
        until(lambda: load.seen[200] > 20)
        service.signal()
        code = service.ends()
        for thread in load.threads:
            thread.join(LONG)
        assert (load.wrong, code) == ([], 0)
        assert load.seen.keys() <= {200, 429}


def test_connections_that_are_not_accepted_yet_are_answered_too(service: Serving) -> None:
    service.signal(signal.SIGSTOP)
    clients = [service.connect() for _ in range(40)]
    for client in clients:
        client.sendall(head("/healthz", "GET"))
    service.signal(signal.SIGTERM)
    service.signal(signal.SIGCONT)
    assert [next(read_answers(client)).status for client in clients] == [200] * 40
    assert service.ends() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the door is closed as Linux does")
def test_close_door_stops_new_connections_and_keeps_established_ones() -> None:
    with listening.bind("127.0.0.1", 0) as listener:
        listening.listen(listener)
        with socket.create_connection(listener.getsockname()) as inside:
            listening.close_door(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(listener.getsockname(), 0.1)
            taken, _ = listener.accept()
            with taken:
                inside.sendall(b"still here")
                taken.settimeout(LONG)
                assert taken.recv(20) == b"still here"


def test_it_ends_normally_if_its_output_is_no_longer_read(tiny: Path) -> None:
    with subprocess.Popen(command(tiny, "--drain", 0), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"Serving " in process.stderr.readline()
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(LONG) == 0
        finally:
            process.kill()


def test_closed_standard_streams_are_opened_on_devnull(tiny: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files are read as Linux shows them")
    closing = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *command(tiny, "--drain", 0)]
    with subprocess.Popen(closing, stderr=subprocess.PIPE, text=True) as process:
        try:
            service = Serving(process)
            service.wait_for("Serving ")
            for number in (0, 1):
                assert Path(f"/proc/{process.pid}/fd/{number}").readlink() == Path(os.devnull)
            service.signal()
            assert (service.ends(), len(service.lines)) == (0, 2)
        finally:
            process.kill()


# Limits of the server


@pytest.fixture(scope="module")
def narrow(tiny: Path) -> Iterator[Serving]:
    with serving(tiny, "--idle-timeout", 1, "--max-connections", 4, "--max-bytes", 200_000) as running:
        yield running


def test_an_idle_connection_is_closed(narrow: Serving) -> None:
    with narrow.connect() as client:
        client.sendall(head("/healthz", "GET"))
        assert next(read_answers(client)).status == 200
        assert is_closed(client)


def test_requests_on_connections_beyond_the_limit_are_refused(narrow: Serving) -> None:
    inside = [narrow.connect() for _ in range(4)]
    assert narrow.get("/healthz").status == 503
    for client in inside:
        client.close()
    until(lambda: narrow.get("/healthz").status == 200)


@pytest.mark.parametrize(
    "wrong",
    [
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes.fromhex("16030100dc010000d80303") + bytes(200),
        b"GET / HTTP/1.1\r\n\r\n",
        head("/", "GET", "A: " + "a" * 700_000),
        head("/v1/caption", "POST", "Content-Length: 3", "Content-Length: 4") + b"abcd",
        head("/v1/caption", "POST", "Content-Length: +3") + b"abc",
        head("/v1/caption", "POST", "Content-Length: 3", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("/v1/caption", "POST", f"Content-Length: {10**19}"),
        head("/v1/caption", "POST", "Transfer-Encoding: chunked") + b"-3\r\nabc\r\n0\r\n\r\n",
        head("/page/%2e%2e%2f%2e%2e%2fpage.py", "GET"),
    ],
)
def test_malformed_and_hostile_requests_are_refused_and_others_served(narrow: Serving, wrong: bytes) -> None:
    (refusal,) = narrow.raw(wrong)
    assert 400 <= refusal.status < 500
    assert narrow.get("/healthz").status == 200


def test_a_refused_body_is_answered_and_its_connection_stays_open(narrow: Serving) -> None:
    with narrow.connect() as client:
        client.sendall(head("/v1/caption", "POST", "Content-Length: 8000000"))
        client.sendall(bytes(8_000_000))
        client.sendall(head("/healthz", "GET"))
        assert [one.status for one in read_answers(client, 2)] == [413, 200]


def test_expect_100_continue_is_answered_with_100_or_a_refusal(narrow: Serving, photo: Path) -> None:
    body = photo.read_bytes()
    with narrow.connect() as client:
        client.sendall(head("/v1/caption", "POST", f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert next(read_answers(client)).status == 200
    with narrow.connect() as client:
        client.sendall(head("/v1/caption", "POST", "Content-Length: 300000", "Expect: 100-continue"))
        assert next(read_answers(client)).status == 413

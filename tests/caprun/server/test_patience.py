"""How long a service waits for what does not come, and how many it waits for."""

import asyncio
import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun.server import listening, process
from caprun.server.settings import Settings
from tests.caprun.server.support.serving import LONG, Answer, Serving, head, is_closed, read_answers, serving, until


@pytest.fixture(scope="module")
def hasty(tiny: Path) -> Iterator[Serving]:
    """A service of little patience."""
    with serving(tiny, "--body-timeout", 0.5, "--idle-timeout", 0.4, "--max-connections", 8) as running:
        yield running
        assert running.lines[1:] == []


def test_a_body_shorter_than_it_was_said_to_be_is_waited_for_and_no_longer(hasty: Serving) -> None:
    (late,) = hasty.raw(head("/v1/caption", "POST", "Content-Length: 100") + b"short")
    assert late.status == 408
    with hasty.connect() as client:
        client.sendall(head("/v1/caption", "POST", "Content-Length: 100") + b"short")
        client.shutdown(socket.SHUT_WR)
        (cut,) = read_answers(client)
        assert (cut.status, cut.error) == (400, "The request ended before it was whole.")


def test_a_body_that_comes_a_byte_at_a_time_is_not_waited_for(hasty: Serving) -> None:
    with hasty.connect() as client:
        client.settimeout(0.05)
        client.sendall(head("/v1/caption", "POST", "Content-Length: 10000"))
        began = time.monotonic()
        while time.monotonic() < began + 60:
            client.send(b"x")
            try:
                assert client.recv(12) == b"HTTP/1.1 408"
                return
            except TimeoutError:
                pass
        raise AssertionError("it was waited for")


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"\r\n\r\n", head("/", "GET")[:-2]])
def test_a_head_that_does_not_come_is_not_waited_for(hasty: Serving, sent: bytes) -> None:
    (late,) = hasty.raw(sent)
    assert (late.status, late.headers["connection"]) == (408, "close")


def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for(hasty: Serving) -> None:
    with hasty.connect() as client:
        client.settimeout(0.05)
        began = time.monotonic()
        for byte in head("/healthz", "GET", *["A: b"] * 90):
            client.send(bytes([byte]))
            try:
                if client.recv(12) == b"HTTP/1.1 408":
                    break
            except TimeoutError:
                assert time.monotonic() - began < 60


def test_a_connection_on_which_nothing_more_is_asked_is_closed(hasty: Serving) -> None:
    with hasty.connect() as client:
        client.sendall(head("/healthz", "GET"))
        assert next(read_answers(client)).status == 200
        assert is_closed(client)


def test_a_client_that_never_reads_its_answers_is_dropped(hasty: Serving) -> None:
    def ask_without_end() -> None:
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            client.sendall(head("/openapi.json", "GET"))
            assert hasty.get("/healthz").status == 200  # by now it has answered, if it can

    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(LONG)
        client.connect(("127.0.0.1", hasty.port))
        with pytest.raises(ConnectionError):
            ask_without_end()


def test_connections_beyond_the_limit_are_told_so_and_those_within_it_are_served(hasty: Serving) -> None:
    inside = [hasty.connect() for _ in range(8)]
    until(lambda: beyond(hasty).status == 503)
    refusal = beyond(hasty)
    assert refusal.headers["retry-after"] == "1"
    assert "too many connections" in refusal.error
    inside[0].sendall(head("/healthz", "GET"))
    assert next(read_answers(inside[0])).status == 200
    for client in inside:
        client.close()
    until(lambda: beyond(hasty).status == 200)


def beyond(service: Serving) -> Answer:
    return service.raw(head("/healthz", "GET"))[0]


def test_connections_beyond_the_files_the_system_allows_wait_and_are_served(tiny: Path) -> None:
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process are set as Linux does")
    with serving(tiny) as service:
        files = service.files + 10
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (files, files))
        clients = [service.connect() for _ in range(30)]
        for client in clients:
            client.sendall(head("/healthz", "GET", "Connection: close"))
        assert [next(read_answers(client)).status for client in clients] == [200] * 30
        assert service.lines[1:] == []


def test_while_there_are_no_files_the_service_tries_again_and_never_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_HANDSHAKE", 0.02)
    tries = 0

    def accept() -> NoReturn:
        nonlocal tries
        tries += 1
        raise OSError(errno.EMFILE, "Too many open files")

    async def work(listener: Any) -> None:
        server = process.Server(None, None, Settings(), listener, lambda _: None)  # type: ignore[arg-type]
        server._open()
        await asyncio.sleep(0.3)
        asyncio.get_running_loop().remove_reader(listener)

    with listening.bind("127.0.0.1", 0) as bound:
        listening.listen(bound)
        with socket.create_connection(bound.getsockname()):
            fileno = bound.fileno
            asyncio.run(work(SimpleNamespace(accept=accept, fileno=fileno)))
    assert 1 < tries <= 1 + 2 * 15

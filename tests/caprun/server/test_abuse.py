"""What is no HTTP, or HTTP that nobody should send: an answer of 4xx or a clean close, and everybody else is served."""

import asyncio
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun.server import listening
from caprun.server.process import Server
from caprun.server.settings import Settings
from tests.caprun.server.support.serving import LONG, Serving, head, is_closed, read_answers, serving, until

LIMIT = 200_000  # bytes of a body


@pytest.fixture(scope="module")
def shared(tiny: Path) -> Iterator[Serving]:
    with serving(tiny, "--max-bytes", LIMIT) as running:
        yield running


@pytest.fixture
def service(shared: Serving) -> Iterator[Serving]:
    """It serves others throughout, and has nothing to say about it."""
    stop, seen = threading.Event(), list[int]()

    def look() -> None:
        while not stop.is_set():
            seen.append(shared.get("/healthz").status)
            time.sleep(0.05)

    watching = threading.Thread(target=look)
    watching.start()
    yield shared
    stop.set()
    watching.join()
    assert set(seen) == {200}
    assert shared.lines[1:] == []


CHUNKED = "Transfer-Encoding: chunked"


def chunked(rest: bytes) -> bytes:
    return head("/v1/caption", "POST", CHUNKED) + rest


WRONG = {
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 that says so": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    "HTTP/2 as text": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/2 by its preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50),
    "HTTP/3": b"GET / HTTP/3\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100dc010000d80303") + bytes(200),
    "noise": bytes(range(256)) * 20,
    "a method in lower case": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no method": b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address that begins with no slash": b"GET x HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the address": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: x\0\r\n\r\n",
    "UTF-8 in the address": "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "line feeds alone": b"GET / HTTP/1.1\nHost: x\n\n",
    "a carriage return alone": b"GET / HTTP/1.1\r\nHost: x\ry: z\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "no name of a header": b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "two lengths": head("/v1/caption", "POST", "Content-Length: 3", "Content-Length: 4") + b"abcd",
    "a list of lengths": head("/v1/caption", "POST", "Content-Length: 3, 3") + b"abc",
    "a negative length": head("/v1/caption", "POST", "Content-Length: -1") + b"abc",
    "a signed length": head("/v1/caption", "POST", "Content-Length: +3") + b"abc",
    "a length of many digits": head("/v1/caption", "POST", f"Content-Length: {10**30}") + b"abc",
    "an empty length": head("/v1/caption", "POST", "Content-Length:") + b"abc",
    "a length beyond the limit": head("/v1/caption", "POST", f"Content-Length: {LIMIT + 1}"),
    "length and chunks": head("/v1/caption", "POST", "Content-Length: 3", CHUNKED) + b"0\r\n\r\n",
    "chunks and length": head("/v1/caption", "POST", CHUNKED, "Content-Length: 3") + b"0\r\n\r\n",
    "chunks twice": head("/v1/caption", "POST", CHUNKED, CHUNKED) + b"0\r\n\r\n",
    "chunks that are not last": head("/v1/caption", "POST", f"{CHUNKED}, gzip") + b"0\r\n\r\n",
    "chunks that are not chunks": head("/v1/caption", "POST", "Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v1/caption HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": chunked(b"\r\nabc\r\n0\r\n\r\n"),
    "a chunk of a size that is none": chunked(b"zz\r\nabc\r\n0\r\n\r\n"),
    "a chunk of negative size": chunked(b"-3\r\nabc\r\n0\r\n\r\n"),
    "a chunk of 2**70 bytes": chunked(b"400000000000000000\r\nabc\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": chunked(b"3\r\nabcdef\r\n0\r\n\r\n"),
    "chunks with line feeds alone": chunked(b"3\nabc\n0\n\n"),
    "a chunk with a long extension": chunked(b"3;" + b"a" * 150_000),
    "a chunk with a long trailer": chunked(b"3\r\nabc\r\n0\r\nA: " + b"a" * 150_000),
    "chunks with many trailers": chunked(b"3\r\nabc\r\n0\r\n" + b"A: b\r\n" * 500),
    "chunks beyond the limit": chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (LIMIT + 1, bytes(LIMIT + 1))),
    "no body": head("/v1/caption", "POST"),
    "a websocket": head("/", "GET", "Connection: upgrade", "Upgrade: websocket"),
    "an upgrade with a body": head("/v1/caption", "POST", "Connection: upgrade", "Upgrade: h2c", "Content-Length: 1"),
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "CONNECT to a path": head("/", "CONNECT"),
    "TRACE": head("/", "TRACE"),
    "TRACE of a photo": head("/v1/caption", "TRACE"),
    "DELETE": head("/v1/caption", "DELETE"),
    "OPTIONS of all": head("*", "OPTIONS"),
    "a path that goes up": head("/../../etc/passwd", "GET"),
    "a path that goes up in disguise": head("/%2e%2e/%2e%2e/etc/passwd", "GET"),
    "a path that goes up from the page": head("/page/../../../etc/passwd", "GET"),
    "a path that goes up from the page in disguise": head("/page/%2e%2e%2f%2e%2e%2fpage.py", "GET"),
    "a path with a backslash": head("/page/..%5c..%5cpage.py", "GET"),
    "a path with NUL": head("/page/page.css%00.html", "GET"),
    "a path that is no UTF-8": head("/%ff%fe", "GET"),
    "a path of a file": head("//etc/passwd", "GET"),
    "a long address": head("/" + "a" * 70_000, "GET"),
    "a long query": head("/v1/caption?" + "a" * 70_000, "POST", "Content-Length: 0"),
    "a query within the limit": head("/v1/caption?" + "a" * 30_000, "POST", "Content-Length: 0"),
    "a long header": head("/healthz", "GET", "A: " + "a" * 70_000),
    "a long name of a header": head("/healthz", "GET", "A" * 70_000 + ": a"),
    "many headers": head("/healthz", "GET", *["A: b"] * 150),
    "empty lines without end": b"\r\n" * 50_000,
    "a beam of a billion": head("/v1/caption?beam_size=1000000000", "POST", "Content-Length: 1") + b"x",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_nobody_should_send_is_refused_and_others_are_served(service: Serving, name: str) -> None:
    (refusal,) = service.raw(WRONG[name])
    version = name.startswith(("HTTP/0.9", "HTTP/2 as"))
    assert 400 <= refusal.status < 500 or (version and refusal.status == 505) or refusal.status == 501, refusal
    assert refusal.headers["content-type"] == "application/json"
    assert refusal.error.endswith(".")


def test_the_length_of_what_is_too_long_is_said_by_the_status(service: Serving) -> None:
    assert [service.raw(WRONG[f"a long {what}"])[0].status for what in ("address", "header")] == [414, 431]
    assert service.raw(WRONG["many headers"])[0].status == 431
    assert service.raw(head("/healthz", "GET", "A: " + "a" * 60_000, *["B: c"] * 90))[0].status == 200


def test_chunks_are_no_part_of_http_1_0(service: Serving) -> None:
    assert service.raw(WRONG["chunks in HTTP/1.0"])[0].status == 501


def smuggled(wrong: bytes) -> bytes:
    """A request hidden in the body of another, for whoever reads the body's length otherwise."""
    return wrong + head("/v1/model", "GET")


@pytest.mark.parametrize("name", [name for name in WRONG if "chunk" in name or "length" in name])
def test_after_a_refusal_nothing_else_is_answered_on_the_connection(service: Serving, name: str) -> None:
    with service.connect() as client:
        client.sendall(smuggled(WRONG[name]))
        answers = list(read_answers(client, 3))
        assert len(answers) == 1
        assert answers[0].headers["connection"] == "close"


def test_a_body_longer_than_it_was_said_to_be_is_another_request_and_a_bad_one(service: Serving) -> None:
    first, second = service.raw(head("/v1/caption", "POST", "Content-Length: 3") + b"abcde\r\n\r\n", answers=3)
    assert (first.status, second.status) == (415, 400)


def test_what_is_refused_is_counted(service: Serving) -> None:
    service.raw(WRONG["two hosts"])
    assert re.search(r'caprun_requests_total{code="400",path=""} [1-9]', service.get("/metrics").body.decode())


def test_several_requests_sent_at_once_are_answered_in_their_order(service: Serving, photo: Path) -> None:
    body = photo.read_bytes()
    caption = head("/v1/caption", "POST", f"Content-Length: {len(body)}") + body
    nothing, last = head("/nothing", "GET"), head("/healthz", "GET", "Connection: close")
    answers = service.raw(head("/healthz", "GET") + caption + nothing + caption + last, answers=9)
    assert [one.status for one in answers] == [200, 200, 404, 200, 200]
    assert answers[1].body != answers[0].body


def test_a_bad_request_behind_a_good_one_costs_the_good_one_nothing(service: Serving, photo: Path) -> None:
    body = photo.read_bytes()
    caption = head("/v1/caption", "POST", f"Content-Length: {len(body)}") + body
    for bad in (b"nonsense\r\n\r\n", chunked(b"zz\r\n"), WRONG["length and chunks"], head("/", "CONNECT")):
        good, refusal = service.raw(caption + bad, answers=3)
        assert (good.status, refusal.status // 100) == (200, 4)


def test_more_requests_sent_at_once_than_can_wait_are_refused_after_those_that_can(service: Serving) -> None:
    answers = service.raw(head("/healthz", "GET") * 5_000, answers=5_001)
    statuses = [one.status for one in answers]
    assert statuses == [200] * (len(statuses) - 1) + [429]
    assert len(statuses) >= 16


def test_a_request_that_is_refused_before_its_body_came_is_told_so(service: Serving) -> None:
    for size in (LIMIT + 1, 8_000_000):  # what is more than the buffers of the system hold, too
        with service.connect() as client:
            client.sendall(head("/v1/caption", "POST", f"Content-Length: {size}"))
            client.sendall(bytes(size))
            (refusal,) = read_answers(client)
            assert (refusal.status, refusal.headers["connection"]) == (413, "close")
            assert is_closed(client)


def test_a_client_that_asks_whether_to_go_on_is_told_so(service: Serving, photo: Path) -> None:
    body = photo.read_bytes()
    with service.connect() as client:
        client.sendall(head("/v1/caption", "POST", f"Content-Length: {len(body)}", "Expect: 100-continue"))
        go_on = client.recv(100)
        assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body + head("/healthz", "GET"))
        assert [one.status for one in read_answers(client, 2)] == [200, 200]


def test_a_client_that_asks_whether_to_go_on_is_refused_without_its_body(service: Serving) -> None:
    with service.connect() as client:
        client.sendall(head("/v1/caption", "POST", f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"))
        (refusal,) = read_answers(client)
        assert (refusal.status, refusal.headers["connection"]) == (413, "close")
        assert is_closed(client)


def test_curl_sends_what_is_large_and_reads_why_it_is_refused(service: Serving, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(3_000_000))
    url = f"http://127.0.0.1:{service.port}/v1/caption"
    for options in ([], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"], ["--http1.0"]):
        command = ["curl", "-sS", "-m", "60", "-w", "%{http_code}", "--data-binary", f"@{large}", *options, url]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("curl is not installed")
        assert done.stdout.endswith("413"), (options, done)


def test_a_client_of_http_2_that_can_do_without_is_answered(service: Serving) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    (only,) = service.raw(head("/healthz", "GET", *upgrade), answers=2)
    assert (only.status, only.headers["connection"]) == (200, "close")


def test_a_client_of_http_1_0_is_answered_and_its_connection_closed(service: Serving) -> None:
    (only,) = service.raw(b"GET /healthz HTTP/1.0\r\n\r\n", answers=2)
    assert (only.status, only.headers["connection"]) == (200, "close")


def test_an_answer_that_does_not_want_the_body_closes_the_connection(service: Serving) -> None:
    (only,) = service.raw(head("/healthz", "GET", "Content-Length: 100"), answers=2)
    assert (only.status, only.headers["connection"]) == (200, "close")


def test_trailers_after_a_body_are_no_headers() -> None:
    seen = list[tuple[bytes, bytes]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            while (await receive())["more_body"]:
                pass
            seen.extend(scope["headers"])
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    async def ask() -> bytes:
        with listening.bind("127.0.0.1", 0) as listener:
            host, port = listener.getsockname()
            server = Server(app, SimpleNamespace(draining=False), Settings(drain=0), listener, lambda _: None)
            ready = asyncio.Event()
            running = asyncio.create_task(server.run(ready.set))
            await asyncio.wait_for(ready.wait(), LONG)
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(chunked(b"3;a=b\r\nabc\r\n0\r\nX-Last: y\r\n\r\n"))
            line = await reader.readline()
            writer.close()
            server.drain()
            assert await asyncio.wait_for(running, LONG) == 0
            return line

    assert asyncio.run(ask()) == b"HTTP/1.1 204 No Content\r\n"
    assert [name for name, _ in seen] == [b"host", b"transfer-encoding"]


def test_abuse_takes_no_memory_that_is_not_given_back(service: Serving) -> None:
    status = Path(f"/proc/{service.process.pid}/status")
    if not status.exists():
        pytest.skip("memory is read as Linux shows it")

    def kilobytes() -> int:
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def abuse() -> None:
        for name in ("a long header", "chunks beyond the limit", "noise", "a chunk with a long extension", "TRACE"):
            for _ in range(10):
                service.raw(WRONG[name])

    abuse()
    files, before = service.files, kilobytes()
    for _ in range(4):
        abuse()
    assert kilobytes() - before < 16_000
    until(lambda: service.files <= files + 2)

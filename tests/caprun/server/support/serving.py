"""`caprun serve` as a process on a loopback port, and clients that can send anything."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LONG = 60.0
"""Seconds after which a test stops waiting; enough for any slow machine."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


class Serving:
    """A running service."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process, self.lines, self.port = process, list[str](), 0
        self._said = threading.Condition()
        self._over = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._over = True
            self._said.notify_all()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits for a line of the log that matches the pattern; returns the match."""

        def found() -> "re.Match[str] | None":
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._said:
            self._said.wait_for(lambda: found() or self._over, LONG)
        match = found()
        assert match, f"{pattern!r} was not said: {self.log}"
        return match

    @property
    def files(self) -> int:
        """The number of files that the process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """Waits until the process ends; returns its exit code."""
        code = self.process.wait(LONG)
        with self._said:
            self._said.wait_for(lambda: self._over, LONG)
        return code

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), LONG)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, body: bytes, path: str = "/v1/caption", **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            return answer(connection.getresponse())

    def raw(self, request: bytes, *, answers: int = 1) -> list[Answer]:
        """Sends any bytes; returns at most `answers` responses, fewer if the service closes the connection."""
        with self.connect() as client:
            with contextlib.suppress(ConnectionError):  # the response can still be read
                client.sendall(request)
            return list(read_answers(client, answers))


def answer(response: http.client.HTTPResponse) -> Answer:
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def read_answers(client: socket.socket, most: int = 1) -> Iterator[Answer]:
    """Yields at most `most` responses on a connection, fewer if it is closed.

    Raises:
        ConnectionError: The connection was reset.
    """
    file = client.makefile("rb")
    for _ in range(most):
        line = file.readline()
        if not line:
            return
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", line)
        assert match, line
        headers = {}
        while (line := file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        body = file.read(int(headers.get("content-length", 0)))
        yield Answer(int(match[1]), headers, body)


def is_closed(client: socket.socket) -> bool:
    """Waits for data or the end of a connection; returns whether the service closed it without sending more."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def head(path: str = "/v1/caption", method: str = "POST", *lines: str, host: str = "here") -> bytes:
    """Returns the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1")


def command(bundle: Path, *options: object) -> list[str]:
    base = [sys.executable, "-m", "caprun", "serve", "--model", str(bundle), "--device", "cpu", "--port", "0"]
    return [*base, "--threads", "1", *map(str, options)]


@contextlib.contextmanager
def serving(
    bundle: Path,
    *options: object,
    environment: dict[str, str] | None = None,
    listens: str = r"Serving .* at http://\S*:(\d+)[,;]",
) -> Iterator[Serving]:
    """Runs `caprun serve` until the block ends; yields it once it listens."""
    process = subprocess.Popen(
        command(bundle, *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    service = Serving(process)
    try:
        found = service.wait_for(listens)
        service.port = int(found[1]) if found.groups() else 0
        yield service
    finally:
        process.kill()
        process.wait(LONG)


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Waits until a condition holds; returns its value."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"it never happened: {what or condition}")

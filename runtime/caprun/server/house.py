"""What the connections of a process have in common: limits, whether it is about to end, and how it refuses."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from caprun.server.settings import Settings


@dataclass
class House:
    """What the connections of a process have in common.

    Args:
        settings: the limits.
        count: told the status of each refusal.
        draining: the process is about to end: every answer closes its connection.
    """

    settings: Settings
    count: Callable[[int], object] = lambda _: None
    draining: bool = False
    turned_away: int = 0
    """Connections over the limit that are being told so."""
    _second: int = 0
    _headers: tuple[tuple[bytes, bytes], ...] = ()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer begins with."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._headers = ((b"date", formatdate(now, usegmt=True).encode()), (b"server", b"caprun"))
        return list(self._headers)

    def refusal(self, status: int, sentence: str, *more: tuple[bytes, bytes]) -> bytes:
        """A whole answer, after which the connection is closed."""
        self.count(status)
        body = json.dumps({"error": sentence}).encode()
        headers = [
            *self.headers(),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *more,
        ]
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()), *(b": ".join(h) for h in headers)]
        return b"\r\n".join([*lines, b"", body])

    def goodbye(self) -> bytes:
        """What is answered in place of an answer when the process ends."""
        return self.refusal(503, "The service is shutting down; try again soon.", (b"retry-after", b"5"))

"""The limits and timeouts of a service, most of which are options of `caprun serve`.

This imports nothing heavy, so that `caprun --help` can read it.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from caprun.commands.click_types import Integer, Number
from caprun.errors import UsageError

MOST_DECODERS = 16
"""Maximum threads that decode photos by default; a photo of 50 megapixels takes about 200 MB."""
ENDING = "%s: answering accepted requests for at most %s s; send it again to end at once."
"""Log message when a signal ends the service, with the signal's name and the grace period."""


_DAY = 86_400
_SECONDS = Number("seconds", 0.001, _DAY)


def _limit(default: Any, kind: Integer | Number, text: str, *, shown: bool | str = True) -> Any:
    """Declares a field that is an option of `caprun serve`, with the type and help of the option."""
    return field(default=default, metadata={"type": kind, "help": text, "show_default": shown})


@dataclass(frozen=True)
class Settings:
    """Limits and timeouts of one process of a service."""

    queue: int = _limit(64, Integer(1), "Photos that can wait per worker; more are answered 429.")
    deadline: float = _limit(10, _SECONDS, "Seconds that a photo can wait before it is answered 503.")
    batch_size: int | None = _limit(None, Integer(1, 1024), "Photos per batch.", shown="8; 64 on CUDA")
    batch_delay: float = _limit(
        0.005, Number("seconds", 0, 10), "Maximum seconds that a photo waits for others that are arriving."
    )
    max_bytes: int = _limit(20_000_000, Integer(1), "Maximum bytes per request.")
    max_photos: int = _limit(32, Integer(1, 1024), "Maximum photos per request; at most --queue.")
    max_connections: int = _limit(512, Integer(1), "Maximum connections per worker; more are answered 503.")
    body_timeout: float = _limit(20, _SECONDS, "Seconds in which the body of a request must arrive.")
    idle_timeout: int = _limit(15, Integer(1, _DAY), "Seconds that a connection stays open after a response.")
    grace: int = _limit(20, Integer(1, _DAY), "Seconds to answer accepted requests after SIGTERM.")
    drain: float = _limit(
        1,
        Number("seconds", 0, _DAY),
        "Seconds after SIGTERM in which clients can still connect, so that load balancers notice.",
    )

    max_beam: int = 10
    """Maximum `beam_size`, `n_best` and `groups` of a request."""
    max_length: int = 64
    """Maximum `max_length` of a request, in pieces."""
    queue_bytes: int = 256_000_000
    """Maximum total bytes of the bodies of accepted requests; beyond that, requests are answered with 429."""
    min_confidence: float | None = None
    """The default of a request's `min_confidence`; None returns every caption."""
    decoders: int | None = None
    """Threads that decode photos; None for one per core, up to `MOST_DECODERS`."""
    api_key: str | None = field(default=None, repr=False)
    """Key that requests to `/v1` must send in `Authorization: Bearer KEY`; None for no key."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages can use the API, such as `https://example.org`; `*` for all."""
    root_path: str = ""
    """URL prefix under which a proxy serves the application, such as `/captions`; the proxy may strip it or not."""

    def __post_init__(self) -> None:
        """Normalises the values.

        Raises:
            UsageError: An origin is invalid.
        """
        object.__setattr__(self, "max_photos", min(self.max_photos, self.queue))  # more would never have room
        prefix = self.root_path.strip("/")
        object.__setattr__(self, "root_path", prefix and f"/{prefix}")
        origins = tuple(origin.rstrip("/").lower() for origin in self.cors_origins)
        if wrong := [origin for origin in origins if not re.fullmatch(r"\*|null|[^/\s]+://[^/\s]+", origin)]:
            raise UsageError(f"--cors-origin {wrong[0]} is not an origin; write one such as https://example.org, or *.")
        object.__setattr__(self, "cors_origins", origins)

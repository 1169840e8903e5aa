"""The limits and timeouts of a service."""

import re
from dataclasses import dataclass, field

from caprun.errors import UsageError

MOST_DECODERS = 16
"""Maximum threads that decode photos by default; a photo of 50 megapixels takes about 200 MB."""
ENDING = "%s: answering accepted requests for at most %s s; send it again to end at once."
"""Log message when a signal ends the service, with the signal's name and the grace period."""


@dataclass(frozen=True)
class Settings:
    """Limits and timeouts of one process of a service."""

    max_bytes: int = 20_000_000
    """Maximum bytes of a request's body."""
    max_photos: int = 32
    """Maximum photos of a request; at most `queue`, since more would never have room."""
    max_beam: int = 10
    """Maximum `beam_size`, `n_best` and `groups` of a request."""
    max_length: int = 64
    """Maximum `max_length` of a request, in pieces."""
    min_confidence: float | None = None
    """The default of a request's `min_confidence`; None returns every caption."""
    queue: int = 64
    """Maximum photos accepted and not yet being captioned; beyond that, requests are answered with 429."""
    queue_bytes: int = 256_000_000
    """Maximum total bytes of the bodies of accepted requests; beyond that, requests are answered with 429."""
    deadline: float = 10.0
    """Seconds that a request can wait to be captioned before it is answered with 503."""
    batch_size: int | None = None
    """Maximum photos per batch; None for the device's default."""
    batch_delay: float = 0.005
    """Maximum seconds that a photo waits for others that are arriving, to be captioned in the same batch."""
    decoders: int | None = None
    """Threads that decode photos; None for one per core, up to `MOST_DECODERS`."""
    body_timeout: float = 20.0
    """Seconds in which a body must arrive."""
    idle_timeout: int = 15
    """Seconds that a connection stays open after a response."""
    max_connections: int = 512
    """Maximum open connections; beyond that, requests are answered with 503."""
    grace: int = 20
    """Seconds after SIGTERM in which accepted requests are answered."""
    drain: float = 1.0
    """Seconds after SIGTERM in which clients can still connect, so that load balancers see `/readyz` change."""

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
        object.__setattr__(self, "max_photos", min(self.max_photos, self.queue))
        prefix = self.root_path.strip("/")
        object.__setattr__(self, "root_path", prefix and f"/{prefix}")
        origins = tuple(origin.rstrip("/").lower() for origin in self.cors_origins)
        if wrong := [origin for origin in origins if not re.fullmatch(r"\*|null|[^/\s]+://[^/\s]+", origin)]:
            raise UsageError(f"--cors-origin {wrong[0]} is not an origin; write one such as https://example.org, or *.")
        object.__setattr__(self, "cors_origins", origins)

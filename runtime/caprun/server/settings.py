"""The limits of a service and how long it waits."""

import re
from dataclasses import dataclass, field

from caprun.errors import UsageError

MOST_DECODERS = 16
"""Threads that decode photos, unless more are asked for: a photo of 50 megapixels takes about 200 MB."""
ENDING = "%s: answering what was asked, for %s s at most; again to end at once."
"""What is logged when a signal ends the service: its name, and the grace period."""


@dataclass(frozen=True)
class Settings:
    """Limits and times of one process of a service."""

    max_bytes: int = 20_000_000
    """Most bytes of a request's body."""
    max_photos: int = 32
    """Most photos of a request; at most `queue`, for more would never have room."""
    max_beam: int = 10
    """Most beams, captions for a photo (`n_best`) and groups that a request may ask for."""
    max_length: int = 64
    """Most pieces of a caption that a request may ask for."""
    min_confidence: float | None = None
    """The default of a request's `min_confidence`; None returns every caption."""
    queue: int = 64
    """Most photos that are accepted and not yet being captioned; beyond it, a request is answered 429."""
    queue_bytes: int = 256_000_000
    """Most bytes of the bodies of accepted requests together; beyond it, a request is answered 429."""
    deadline: float = 10.0
    """Seconds that a request waits to be captioned before it is answered 503."""
    batch_size: int | None = None
    """Most photos captioned together; None for what suits the device."""
    batch_delay: float = 0.005
    """Seconds that a photo waits for others that are on their way, to be captioned together with them."""
    decoders: int | None = None
    """Threads that decode photos; None for one a core, up to `MOST_DECODERS`."""
    body_timeout: float = 20.0
    """Seconds that a body may take to arrive."""
    idle_timeout: int = 15
    """Seconds that a connection stays open after an answer."""
    max_connections: int = 512
    """Most open connections; beyond it, a request is answered 503."""
    grace: int = 20
    """Seconds after SIGTERM in which accepted requests are answered."""
    drain: float = 1.0
    """Seconds after SIGTERM in which clients can still connect, so that load balancers see `/readyz` change."""

    api_key: str | None = field(default=None, repr=False)
    """What requests to `/v1` must say in `Authorization: Bearer KEY`; None for nothing."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may use the API, such as `https://example.org`; `*` for all."""
    root_path: str = ""
    """Prefix that a proxy serves the application below, such as `/captions`, whether it takes it off or not."""

    def __post_init__(self) -> None:
        """Writes what is given as it is compared.

        Raises:
            UsageError: An origin is none.
        """
        object.__setattr__(self, "max_photos", min(self.max_photos, self.queue))
        prefix = self.root_path.strip("/")
        object.__setattr__(self, "root_path", prefix and f"/{prefix}")
        origins = tuple(origin.rstrip("/").lower() for origin in self.cors_origins)
        if wrong := [origin for origin in origins if not re.fullmatch(r"\*|null|[^/\s]+://[^/\s]+", origin)]:
            raise UsageError(f"--cors-origin {wrong[0]} is no origin; write one such as https://example.org, or *.")
        object.__setattr__(self, "cors_origins", origins)

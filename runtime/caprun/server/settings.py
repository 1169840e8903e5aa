"""What a service allows and how long it waits: every limit, in one place."""

from dataclasses import dataclass

MOST_DECODERS = 16
"""Photos decoded at once unless more are asked for: that of 50 megapixels takes some 200 MB."""


@dataclass(frozen=True)
class Settings:
    """Limits and times of one process of a service."""

    max_bytes: int = 20_000_000
    """Most bytes of a request's body."""
    max_photos: int = 32
    """Most photos in one request; `queue` at most, for more would never have room."""
    max_beam: int = 10
    """Most beams, captions a photo (`n_best`) and groups that a request may ask for."""
    max_length: int = 64
    """Most pieces of a caption that a request may ask for."""
    min_confidence: float | None = None
    """Below this confidence a photo has no caption, where a request does not say; None for captions of all."""
    queue: int = 64
    """Most photos accepted and not yet being captioned; beyond it a request is refused at once, with 429."""
    queue_bytes: int = 256_000_000
    """Most bytes of the bodies of these together, and of the photos in them until they are decoded; beyond it, 429."""
    deadline: float = 10.0
    """Seconds a request may wait to be captioned; then it is answered 503."""
    batch_size: int | None = None
    """Most photos computed together; None for what suits the device."""
    batch_delay: float = 0.005
    """Seconds a photo may wait for others that are on their way, to be computed together with them."""
    decoders: int | None = None
    """Photos decoded at once; None for as many as there are cores, up to `MOST_DECODERS`."""
    body_timeout: float = 20.0
    """Seconds a body, and before it a request's head, may take to arrive."""
    idle_timeout: float = 15.0
    """Seconds a connection may stay open with nothing asked."""
    max_connections: int = 1024
    """Most connections open at once."""
    grace: float = 20.0
    """Seconds that accepted requests have to be answered in after SIGTERM."""
    drain: float = 1.0
    """Seconds of these in which clients can still connect, so that a load balancer sees /readyz change; and that a
    connection on which nothing was asked yet is left to ask."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_photos", min(self.max_photos, self.queue))

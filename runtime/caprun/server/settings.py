"""The limits of a service and how long it waits: the one definition for Python and for `caprun serve`."""

from dataclasses import dataclass, field
from typing import Any

from caprun.commands.click_types import Integer, Number

MOST_DECODERS = 16
"""Threads that decode photos, unless more are asked for: a photo of 50 megapixels takes about 200 MB."""
ENDING = "%s: answering what was asked, for %s s at most; again to end at once."
"""What is logged when a signal ends the service: its name, and the grace period."""
_DAY = 86_400


def _option(default: Any, **described: Any) -> Any:
    """Makes a setting that is an option of `caprun serve`, described as click has it."""
    return field(default=default, metadata=described)


@dataclass(frozen=True)
class Settings:
    """Limits and times of one process of a service."""

    root_path: str = _option("", metavar="PREFIX", help="Prefix that a proxy takes off, such as /captions.")
    cors_origins: tuple[str, ...] = _option(
        (),
        metavar="ORIGIN",
        multiple=True,
        help="Origin whose pages may use the API, such as https://example.org; * for all. May be repeated.",
    )
    queue: int = _option(64, type=Integer(1), help="Photos a worker lets wait before it answers 429.")
    deadline: float = _option(
        10, type=Number("seconds", 0.001, _DAY), help="Seconds that a photo may wait before the answer is 503."
    )
    batch_size: int | None = _option(
        None, type=Integer(1, 1024), help="Photos computed together.  [default: 8; on CUDA 64]"
    )
    batch_delay: float = _option(
        0.005, type=Number("seconds", 0, 10), help="Seconds that a photo may wait for others on their way."
    )
    max_bytes: int = _option(20_000_000, type=Integer(1), help="Most bytes of a request.")
    max_photos: int = _option(32, type=Integer(1, 1024), help="Most photos of a request; at most --queue.")
    max_connections: int = _option(512, type=Integer(1), help="Most connections of a worker.")
    body_timeout: float = _option(
        20, type=Number("seconds", 0.001, _DAY), help="Seconds that the body of a request may take to arrive."
    )
    idle_timeout: int = _option(15, type=Integer(1, _DAY), help="Seconds that a connection stays open after an answer.")
    grace: int = _option(20, type=Integer(1, _DAY), help="Seconds to answer what was asked, after SIGTERM.")
    drain: float = _option(
        1,
        type=Number("seconds", 0, _DAY),
        help="Seconds after SIGTERM in which clients can still connect, so that load balancers notice.",
    )
    min_confidence: float | None = None
    """The default of a request's `min_confidence`; None returns every caption."""
    api_key: str | None = field(default=None, repr=False)
    """What requests to `/v1` must say in `Authorization: Bearer KEY`; None for nothing."""
    max_beam: int = 10
    """Most beams, captions for a photo (`n_best`) and groups that a request may ask for."""
    max_length: int = 64
    """Most pieces of a caption that a request may ask for."""
    queue_bytes: int = 256_000_000
    """Most bytes of the bodies of accepted requests together; beyond it, a request is answered 429."""
    decoders: int | None = None
    """Threads that decode photos; None for one a core, up to `MOST_DECODERS`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_photos", min(self.max_photos, self.queue))  # more would never have room
        if prefix := self.root_path.strip("/"):
            object.__setattr__(self, "root_path", f"/{prefix}")

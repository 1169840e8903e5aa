"""What a service counts, in the text format of Prometheus: of one process, or added up over several.

prometheus_client adds up over processes where PROMETHEUS_MULTIPROC_DIR is set before it is first imported, to an empty
directory that all of them share.
"""

import os
from typing import Literal, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of `Metrics.text`."""
Reason: TypeAlias = Literal["queue", "deadline", "draining"]
"""Why a request is not served now."""

STAGES = ("receive", "decode", "queue", "caption", "total")
"""Of a request are the first and the last, of each photo the others."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PHOTOS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Metrics:
    """The counters of one process; to be used by any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as many lines again, of when each counter was made
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "caprun_requests", "Answers by path and status; 499: the client left.", ["path", "code"], registry=registry
        )
        self._refused = Counter(
            "caprun_refused", "Requests to caption refused for want of room or time.", ["reason"], registry=registry
        )
        self._photos = Counter("caprun_photos", "Photos by what became of them.", ["result"], registry=registry)
        stages = Histogram(
            "caprun_stage_seconds",
            "What it took, where captions were answered.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batch = Histogram("caprun_batch_size", "Photos captioned together.", buckets=_PHOTOS, registry=registry)
        # of processes that live: each says its own, and a dead one's goes with `forget`
        self._queue = Gauge(
            "caprun_queue_length",
            "Photos accepted and not yet being captioned.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def answered(self, path: str, code: int) -> None:
        """A request was answered; `path` is one of few, never what a client made up."""
        self._requests.labels(path, str(code)).inc()

    def refused(self, reason: Reason) -> None:
        """A request to caption was refused: no room, no time, or no more."""
        self._refused.labels(reason).inc()

    def captioned(self, decode: float, queue: float, caption: float, *, abstained: bool = False) -> None:
        """A photo was captioned: seconds until it was decoded, then until its batch was begun, then of its batch.

        `abstained`: the model was not sure enough of its caption to say it.
        """
        self._photos.labels("abstained" if abstained else "captioned").inc()
        self._stages["decode"].observe(decode)
        self._stages["queue"].observe(queue)
        self._stages["caption"].observe(caption)

    def failed(self, result: Literal["bad", "failed"]) -> None:
        """A photo was not captioned, by its own fault or by ours."""
        self._photos.labels(result).inc()

    def served(self, receive: float, total: float) -> None:
        """A request was served: seconds until its body was there, and until it was answered."""
        self._stages["receive"].observe(receive)
        self._stages["total"].observe(total)

    def batch(self, photos: int) -> None:
        """Photos are captioned together."""
        self._batch.observe(photos)

    def queue(self, photos: int) -> None:
        """How long the queue is now."""
        self._queue.set(photos)

    def text(self) -> bytes:
        """All of it, of all processes together."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def forget(pid: int) -> None:
    """A process of several died: what it said of its present is no longer true, what it counted stays."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]

"""The counters of a service, in the text format of Prometheus: of one process, or added up over several.

prometheus_client adds up over processes where PROMETHEUS_MULTIPROC_DIR is set before it is first imported, to an empty
directory that all of them share.
"""

import os
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

from caprun.server.refusal import Reason

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `Metrics.text`."""

STAGES = ("receive", "decode", "queue", "caption", "total")
"""The first and the last are of a request, the others of each photo."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PHOTOS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Metrics:
    """The counters of one process, for any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as many lines again, of when each counter was made
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "caprun_requests", "Answers, by path and status; 499: the client left.", ["path", "code"], registry=registry
        )
        self._refused = Counter(
            "caprun_refused", "Requests to caption that were refused, by reason.", ["reason"], registry=registry
        )
        self._photos = Counter("caprun_photos", "Photos, by result.", ["result"], registry=registry)
        stages = Histogram(
            "caprun_stage_seconds",
            "Time by stage, of requests that were captioned.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batch = Histogram("caprun_batch_size", "Photos captioned together.", buckets=_PHOTOS, registry=registry)
        # of living processes: a dead one's goes with `forget`
        self._queue = Gauge(
            "caprun_queue_length",
            "Photos accepted and not yet being captioned.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def answered(self, path: str, code: int) -> None:
        """Counts an answer; `path` is one of few, never one that a client made up."""
        self._requests.labels(path, str(code)).inc()

    def refused(self, reason: Reason) -> None:
        """Counts a request to caption that was refused."""
        self._refused.labels(reason).inc()

    def captioned(self, decode: float, queue: float, caption: float, *, abstained: bool = False) -> None:
        """Counts a photo that was captioned.

        Args:
            decode: Seconds until it was decoded.
            queue: Seconds from then until its batch began.
            caption: Seconds that its batch took.
            abstained: Whether the model was not sure enough of its caption.
        """
        self._photos.labels("abstained" if abstained else "captioned").inc()
        self._stages["decode"].observe(decode)
        self._stages["queue"].observe(queue)
        self._stages["caption"].observe(caption)

    def failed(self, result: Literal["bad", "failed"]) -> None:
        """Counts a photo that was not captioned, by its own fault or by ours."""
        self._photos.labels(result).inc()

    def served(self, receive: float, total: float) -> None:
        """Counts a request that was served: seconds until its body had arrived, and until it was answered."""
        self._stages["receive"].observe(receive)
        self._stages["total"].observe(total)

    def batch(self, photos: int) -> None:
        """Counts photos that are captioned together."""
        self._batch.observe(photos)

    def queue(self, photos: int) -> None:
        """Sets the length of the queue."""
        self._queue.set(photos)

    def text(self) -> bytes:
        """Returns all of it, of all processes together."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def forget(pid: int) -> None:
    """Forgets the queue of a process that died; what it counted stays."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]

"""The counters of a service, in the text format of Prometheus: of one process, or added up over several.

prometheus_client adds up over processes where PROMETHEUS_MULTIPROC_DIR is set before it is first imported, to an empty
directory that all of them share.
"""

import os

import prometheus_client as prometheus
from prometheus_client import Counter, Histogram, multiprocess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `Metrics.text`."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PHOTOS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Metrics:
    """The counters of one process, for any thread."""

    def __init__(self) -> None:
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # as many lines again, of when each counter was made
        self._registry = registry = prometheus.CollectorRegistry()
        self.requests = Counter(
            "caprun_requests", "Answers, by path and status; 499: the client left.", ["path", "code"], registry=registry
        )
        self.refused = Counter(
            "caprun_refused", "Requests to caption that were refused, by reason.", ["reason"], registry=registry
        )
        self.photos = Counter("caprun_photos", "Photos, by result.", ["result"], registry=registry)
        self.stages = Histogram(
            "caprun_stage_seconds",
            "Time by stage, of requests that were captioned.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram("caprun_batch_size", "Photos in a batch.", buckets=_PHOTOS, registry=registry)
        self.queue = prometheus.Gauge(
            "caprun_queue_length",
            "Photos accepted and not yet being captioned.",
            multiprocess_mode="livesum",  # of living processes: a dead one's goes with `forget`
            registry=registry,
        )

    def text(self) -> bytes:
        """Returns all of it, of all processes together."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return prometheus.generate_latest(self._registry)
        together = prometheus.CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return prometheus.generate_latest(together)


def forget(pid: int) -> None:
    """Forgets the queue of a process that died; what it counted stays."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]

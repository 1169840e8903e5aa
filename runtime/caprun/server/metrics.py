"""The metrics of a service in the Prometheus text format, from one process or summed over several.

prometheus_client sums over processes if PROMETHEUS_MULTIPROC_DIR is set, before it is first imported, to an empty
directory that they share.
"""

import os

import prometheus_client as prometheus
from prometheus_client import Counter, Histogram, multiprocess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `Metrics.text`."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PHOTOS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Metrics:
    """The metrics of one process; thread-safe."""

    def __init__(self) -> None:
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of lines
        self._registry = registry = prometheus.CollectorRegistry()
        self.requests = Counter(
            "caprun_requests",
            "Responses by path and status; 499: the client disconnected.",
            ["path", "code"],
            registry=registry,
        )
        self.refused = Counter("caprun_refused", "Refused caption requests by reason.", ["reason"], registry=registry)
        self.photos = Counter("caprun_photos", "Photos by result.", ["result"], registry=registry)
        self.stages = Histogram(
            "caprun_stage_seconds",
            "Seconds by stage of captioned requests.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram("caprun_batch_size", "Photos in a batch.", buckets=_PHOTOS, registry=registry)
        self.queue = prometheus.Gauge(
            "caprun_queue_length",
            "Photos accepted and not yet being captioned.",
            multiprocess_mode="livesum",  # sums over live processes; `forget` removes a dead one's value
            registry=registry,
        )

    def text(self) -> bytes:
        """Returns the metrics, summed over all processes."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return prometheus.generate_latest(self._registry)
        together = prometheus.CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return prometheus.generate_latest(together)


def forget(pid: int) -> None:
    """Removes the queue length of a process that died; its counters stay."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]

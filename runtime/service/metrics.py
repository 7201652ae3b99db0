"""What a server measures, for Prometheus."""

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REQUEST_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The measurements of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "howl_requests", "Requests that were answered.", ["endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "howl_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["endpoint"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "howl_stage_seconds",
            "Of each stage of an answer; wait is the time in the queue.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.partial = Counter(
            "howl_partial_answers", "Answers that lack a shard of the index.", registry=self.registry
        )
        self.photos = Gauge("howl_index_photos", "Photos that a search can find.", registry=self.registry)
        self.refreshed = Gauge(
            "howl_index_refresh_timestamp_seconds",
            "When the index was last looked at for commits of other processes, and could be read.",
            registry=self.registry,
        )
        self.index_fault = Gauge(
            "howl_index_fault", "1 while the index at its path cannot be taken up.", registry=self.registry
        )

    def watch(self, name: str, help_: str, value: Callable[[], float]) -> None:
        """Adds a gauge that is asked for its value."""
        Gauge(f"howl_{name}", help_, registry=self.registry).set_function(value)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def worked(self, stages: Mapping[str, float]) -> None:
        """Counts the stages of an answer, in milliseconds."""
        for name, milliseconds in stages.items():
            self.stages.labels(name).observe(milliseconds / 1e3)

    def looked_at_index(self, photos: int, *, is_well: bool) -> None:
        """Notes what a refresh found."""
        self.photos.set(photos)
        self.index_fault.set(not is_well)
        if is_well:
            self.refreshed.set(time.time())

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)

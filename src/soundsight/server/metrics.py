"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The figures of one server process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.streams = Gauge("soundsight_streams", "Streams that are open.", registry=own)
        self.windows = Counter(
            "soundsight_windows", "Windows answered, by state.", ["state"], registry=own
        )
        self.skipped = Counter(
            "soundsight_windows_skipped", "Windows left out for lack of time.", registry=own
        )
        self.latency = Histogram(
            "soundsight_window_seconds",
            "From the arrival of a window's last sample to its answer.",
            buckets=_SECONDS,
            registry=own,
        )
        self.queue = Gauge(
            "soundsight_queue_windows", "Windows that wait for a worker.", registry=own
        )
        self.wait = Gauge(
            "soundsight_queue_wait_seconds", "Mean wait of the last windows.", registry=own
        )
        self.refusals = Counter(
            "soundsight_refusals", "Streams and requests refused, by reason.", ["reason"],
            registry=own,
        )  # fmt: skip
        self.requests = Histogram(
            "soundsight_request_seconds", "Requests, by path and status.", ["path", "status"],
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.jobs = Gauge("soundsight_jobs", "Uploads that are worked on.", registry=own)

    def text(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self.registry)

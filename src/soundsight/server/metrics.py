"""What a server counts, for Prometheus."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The figures of one server process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        gauge, counter = partial(Gauge, registry=own), partial(Counter, registry=own)
        seconds = partial(Histogram, buckets=_SECONDS, registry=own)
        self.streams = gauge("soundsight_streams", "Streams that are open.")
        self.windows = counter("soundsight_windows", "Windows answered, by state.", ["state"])
        self.skipped = counter("soundsight_windows_skipped", "Windows left out for lack of time.")
        self.latency = seconds(
            "soundsight_window_seconds", "From the arrival of a window's last sample to its answer."
        )
        self.queue = gauge("soundsight_queue_windows", "Streams whose sound waits for a worker.")
        self.wait = gauge("soundsight_queue_wait_seconds", "Mean wait of the last windows.")
        self.refusals = counter(
            "soundsight_refusals", "Streams and requests refused, by reason.", ["reason"]
        )
        self.requests = seconds(
            "soundsight_request_seconds", "Requests, by path and status.", ["path", "status"]
        )
        self.jobs = gauge("soundsight_jobs", "Uploads that are worked on.")

"""What a server measures, for Prometheus, and one line of JSON a request for its log."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LOG = logging.getLogger("petiole.serving")
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Telemetry:
    """Counters of one server; names begin with petiole_."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "petiole"}
        self.requests = Histogram(
            "request_seconds", "From request to answer", ["route", "status"], buckets=SECONDS, **own
        )
        self.rows = Counter("rows", "Images and questions answered", ["adapter"], **own)
        self.refused = Counter("refused", "Requests refused for load", ["reason"], **own)
        self.batch_rows = Histogram(
            "batch_rows", "Rows of a forward", buckets=(1, 2, 4, 8, 16, 32), **own
        )
        self.batch_seconds = Histogram(
            "batch_seconds", "Decoding and forward of a batch", buckets=SECONDS, **own
        )
        self.reads = Counter("adapter_reads", "Adapters read because a row asked for them", **own)
        self.queue = Gauge("queue_rows", "Rows that wait", **own)
        self.wait = Gauge("expected_wait_seconds", "Of a row that would come now", **own)
        self.restarts = Gauge("worker_restarts", "Of the inference process", **own)
        self.memory = Gauge("worker_memory_bytes", "Of the inference process", **own)
        self.adapters = Gauge("adapters", "Known", **own)
        self.workers = Gauge("workers", "Inference processes", **own)

    def batch(self, rows: int, seconds: float, reads: int) -> None:
        """A batch is done."""
        self.reads.inc(reads)
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


def log_to(stream: TextIO) -> None:
    """Send the log of a server to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def log(event: str, **facts: Any) -> None:
    """One line of JSON; never an image."""
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    LOG.info(json.dumps({"when": when, "event": event, **facts}))

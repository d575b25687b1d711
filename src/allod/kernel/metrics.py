"""What is measured, under the names of docs/metrics.md. Labels are bounded: models, routes and codes, never words."""

from __future__ import annotations

from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest

from allod import __version__


class _Remembering:
    """Remembers each child by its labels: prometheus-client's own labels() takes ten times as long, per request."""

    def labels(self, *values: Any, **named: Any) -> Any:
        """The child with these labels."""
        assert not named, "labels are given by place"
        children = self.__dict__.setdefault("_remembered", {})
        child = children.get(values)
        if child is None:
            child = children[values] = super().labels(*values, **named)  # type: ignore[misc]
        return child


class Counter(_Remembering, prometheus_client.Counter):
    """A counter."""


class Gauge(_Remembering, prometheus_client.Gauge):
    """A gauge."""


class Histogram(_Remembering, prometheus_client.Histogram):
    """A histogram."""


_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
)
_DURATION = (
    0.01,
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
)
_QUEUE = (0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480)
_LOAD = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One server's numbers."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.request_duration = Histogram(
            "allod_request_duration_seconds",
            "From the request's head to the answer's end.",
            ["model", "route", "outcome"],
            buckets=_DURATION,
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "allod_time_to_first_token_seconds",
            "From the request's head to the first piece of the answer.",
            ["model"],
            buckets=_TTFT,
            registry=registry,
        )
        self.queue_time = Histogram(
            "allod_queue_time_seconds",
            "Waiting for a lease, loading included.",
            ["model"],
            buckets=_QUEUE,
            registry=registry,
        )
        self.model_load = Histogram(
            "allod_model_load_seconds",
            "Loading a model.",
            ["model", "outcome"],
            buckets=_LOAD,
            registry=registry,
        )
        self.tokens = Counter(
            "allod_tokens",
            "Tokens by type: input, cached (of the input) and output.",
            ["model", "type"],
            registry=registry,
        )
        self.errors = Counter(
            "allod_errors", "Errors given to clients, by their code.", ["route", "type"], registry=registry
        )
        self.aborted = Counter(
            "allod_streams_aborted", "Answers that ended early, by whom.", ["by"], registry=registry
        )
        self.evictions = Counter(
            "allod_model_evictions", "Models unloaded, by reason.", ["reason"], registry=registry
        )
        self.restarts = Counter(
            "allod_worker_restarts", "Workers that ended by themselves.", ["model"], registry=registry
        )
        self.waiting = Gauge(
            "allod_requests_waiting", "Requests waiting for a lease.", ["model"], registry=registry
        )
        self.running = Gauge("allod_requests_running", "Requests with a lease.", ["model"], registry=registry)
        self.loaded = Gauge("allod_models_loaded", "Models in memory.", registry=registry)
        self.memory = Gauge(
            "allod_model_memory_bytes", "Resident memory of a model's worker.", ["model"], registry=registry
        )
        build = Gauge("allod_build_info", "Always 1; the version is a label.", ["version"], registry=registry)
        build.labels(__version__).set(1)

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)

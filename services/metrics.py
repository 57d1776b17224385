"""What Prometheus reads: calls from the interceptor, stages and batches from the engines, the rest when it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from captioner import Captioner
from services.errors import Failure
from services.interceptors import Call
from services.observer import Observer, Stage

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
REJECTED = {
    "QUEUE_FULL": "queue_full",
    "LOADING": "draining",
    "DRAINING": "draining",
    "TOKEN_MISSING": "unauthenticated",
    "TOKEN_INVALID": "unauthenticated",
}
"""The label of a reason; deadline and cancelled are told by the engines."""
INVALID = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")


class Metrics(Observer):
    """Every metric of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"captioner_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"captioner_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"captioner_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests_total", "Calls that ended, health checks not counted.", "method", "code")
        self.request_seconds = histogram("request_seconds", "How long calls took.", SECONDS, "method")
        self.queue_seconds = histogram("queue_seconds", "Waiting for a turn, all stages of a call.", SECONDS, "model")
        self.stage_seconds = histogram("stage_seconds", "One run of a stage.", SECONDS, "model", "stage")
        self.batch_images = histogram("batch_images", "Images in one run of a stage.", IMAGES, "model", "stage")
        self.admitted_images = gauge("admitted_images", "Images that were let in and are not done.")
        self.rejected = counter("rejected_total", "Images that got no answer, and calls that were refused.", "reason")
        self.tasks = gauge("tasks", "Tasks of the event loop: calls, streams, and a few of the server itself.")
        self.memory_hits = counter("memory_hits_total", "Images that were remembered.", "model")
        self.memory_misses = counter("memory_misses_total", "Images that were not remembered.", "model")
        self.reloads = counter("reloads_total", "Reloads of models, tokens and certificates.", "outcome")
        self.model_info = gauge("model_info", "1 for each model.", "name", "version", "precision", "provider")
        self.provider_is_gpu = gauge("provider_is_gpu", "1 if every model runs on a GPU.")
        self.log_lines_lost = gauge("log_lines_lost", "Lines of the log that could not be written.")
        for reason in ("queue_full", "deadline", "cancelled", "invalid", "draining", "unauthenticated"):
            self.rejected.labels(reason)  # from the start, so that a rate sees the first one
        for outcome in ("ok", "failed"):
            self.reloads.labels(outcome)

    # Of calls: see services.interceptors.Watcher.

    def finished(self, call: Call) -> None:
        """A call ended."""
        self.requests.labels(call.method, call.code.name).inc()
        self.request_seconds.labels(call.method).observe(call.seconds)

    def failed(self, failure: Failure) -> None:
        """A call, or one picture of a stream, failed."""
        reason = REJECTED.get(failure.reason, "invalid" if failure.code.name in INVALID else None)
        if reason is not None:
            self.rejected.labels(reason).inc()

    # Of engines: see services.observer.Observer.

    def stage(self, model: str, stage: Stage, seconds: float, images: int) -> None:
        """A stage ran once."""
        self.stage_seconds.labels(model, stage).observe(seconds)
        self.batch_images.labels(model, stage).observe(images)

    def queue(self, model: str, seconds: float) -> None:
        """A call was answered."""
        self.queue_seconds.labels(model).observe(seconds)

    def dropped(self, reason: Literal["deadline", "cancelled"]) -> None:
        """A call was given up."""
        self.rejected.labels(reason).inc()

    def memory(self, model: str, hit: bool) -> None:
        """A picture was looked up."""
        (self.memory_hits if hit else self.memory_misses).labels(model).inc()

    # Of the server.

    def models(self, captioners: Iterable[Captioner]) -> None:
        """These are the models from now on."""
        captioners = list(captioners)
        self.model_info.clear()
        for captioner in captioners:
            bundle = captioner.bundle
            self.model_info.labels(bundle.name, bundle.version, captioner.precision, captioner.provider).set(1)
        self.provider_is_gpu.set(bool(captioners) and all(captioner.provider == "cuda" for captioner in captioners))

    def read_from(self, admitted: Callable[[], float], tasks: Callable[[], float]) -> None:
        """Where to look when Prometheus asks."""
        self.admitted_images.set_function(admitted)
        self.tasks.set_function(tasks)

    def serve(self, host: str, port: int) -> WSGIServer:
        """Answer Prometheus over HTTP, from a thread; OSError if it cannot listen. shutdown() ends it."""
        server, _ = start_http_server(port, host.strip("[]"), self.registry)
        return server

"""OpenTelemetry, if OTEL_EXPORTER_OTLP_ENDPOINT is set: a span for each call, a child of the caller's (`traceparent`).

The span is made when the call has ended, from what the log has too, so that nothing is done for it while it runs.
"""

from __future__ import annotations

import os
from typing import Any

import grpc

from services.errors import Failure
from services.interceptors import Call

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE_NAME = "captioner"
"""Unless OTEL_SERVICE_NAME says otherwise."""
OUR_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED)


class Tracing:
    """Turns calls into spans; `exporter` is OpenTelemetry's SpanExporter, None for the one of the environment."""

    def __init__(self, exporter: Any = None):
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        name = os.environ.get("OTEL_SERVICE_NAME", SERVICE_NAME)
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("services")

    def finished(self, call: Call) -> None:
        """See services.interceptors.Watcher."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {name: value for name, value in call.metadata if name in ("traceparent", "tracestate")}
        span = self._tracer.start_span(
            call.method,
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            start_time=call.begun_ns,
            attributes={
                "rpc.system": "grpc",
                "rpc.method": call.method,
                "rpc.grpc.status_code": call.code.value[0],
                "captioner.reason": call.reason,
                "captioner.model": call.model,
                "captioner.pictures": call.pictures,
                "captioner.bytes": call.picture_bytes,
                "captioner.request_id": call.request_id,
                **{f"captioner.{stage}_seconds": seconds for stage, seconds in call.stages.items()},
            },
        )
        if call.code in OUR_FAULTS:
            span.set_status(StatusCode.ERROR, call.reason)
        span.end(call.begun_ns + round(1e9 * call.seconds))

    def failed(self, failure: Failure) -> None:
        """Nothing: the span of the call says it."""

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def from_environment() -> Tracing | None:
    """None unless the environment names an endpoint; ImportError if it does and OpenTelemetry is not installed."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        return Tracing()
    except ImportError as error:
        raise ImportError(f"{ENDPOINTS[0]} is set, traces need the extra captioner[trace]: {error}") from error

"""The site with OpenTelemetry's instrumentation of Django, or its WSGI middleware."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class Printer(SpanExporter):
    """Prints a line for each span."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Print the spans."""
        for span in spans:
            attributes = span.attributes or {}
            status = attributes.get("http.response.status_code", attributes.get("http.status_code"))
            name = f"span {span.name} {status} {span.status.status_code.name}"
            print(name, [event.name for event in span.events], flush=True)
        return SpanExportResult.SUCCESS


def install() -> Callable[[Any], Any]:
    """Start tracing; return the middleware if ``OTEL_AROUND`` is set."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Printer()))
    trace.set_tracer_provider(provider)
    if "OTEL_AROUND" in os.environ:
        return OpenTelemetryMiddleware
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.project.settings")
    DjangoInstrumentor().instrument()
    return lambda inner: inner

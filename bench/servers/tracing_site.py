"""The site for ``tracing.py``: ``BENCH_TRACING`` says how much of OpenTelemetry there is."""

from __future__ import annotations

import os
from typing import Any

from django_site import APPS, configure
from tracing_provider import provider

MODE = os.environ["BENCH_TRACING"]

configure(
    INSTALLED_APPS=["django_wsmux", *APPS],
    ROOT_URLCONF="django_pages",
    WEBSOCKET_URLCONF="wsmux_sockets",
    WEBSOCKET_TRACING=MODE != "none",
    # The servers run side by side.
    WEBSOCKET_BACKEND=f"local://?namespace=bench-{os.getppid()}",
)

from django_wsmux.wsgi import get_wsgi_application  # noqa: E402

__all__ = ["application"]


application: Any = get_wsgi_application()
if MODE in ("off", "ratio", "on"):
    from opentelemetry import trace
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    trace.set_tracer_provider(provider(MODE))
    application = OpenTelemetryMiddleware(application)

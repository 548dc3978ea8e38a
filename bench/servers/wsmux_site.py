"""The site on django_wsmux; ``BENCH_REDIS`` is the URL of the groups' broker, if there is one."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from pathlib import Path

from django_site import APPS, configure

configure(
    INSTALLED_APPS=["django_wsmux", *APPS],
    ROOT_URLCONF="wsmux_site",
    WEBSOCKET_URLCONF="wsmux_sockets",
    WEBSOCKET_BACKEND=os.environ.get("BENCH_REDIS", "local://"),
)

from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django_pages import urlpatterns as pages  # noqa: E402

from django_wsmux.monitoring import metrics  # noqa: E402
from django_wsmux.wsgi import get_wsgi_application  # noqa: E402

__all__ = ["application", "gauge", "urlpatterns"]


def gauge(request: HttpRequest) -> JsonResponse:
    """Collect all garbage and report what is left; see ``soak.py``."""
    gc.collect()
    # Make glibc return freed memory, so that it does not look like a leak.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return JsonResponse(
        {
            "objects": len(gc.get_objects()),
            "resident": pages * resource.getpagesize(),
            "files": len(os.listdir("/proc/self/fd")),
            "sockets": metrics.snapshot()["open"],
        }
    )


urlpatterns = [*pages, path("gauge/", gauge)]
application = get_wsgi_application()

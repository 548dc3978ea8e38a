"""The site of ``deploy.py``. Each process that has loaded it adds a line to the file
``BENCH_LOADED``: its id, and the CPU seconds so far of all processes."""

from __future__ import annotations

import os

from deploy_settings import use

use()

from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django_pages import urlpatterns as pages  # noqa: E402

from bench.ticks import spent  # noqa: E402
from django_wsmux.groups import Group  # noqa: E402
from django_wsmux.wsgi import get_wsgi_application  # noqa: E402

__all__ = ["application", "say", "urlpatterns"]


def say(request: HttpRequest, number: int) -> HttpResponse:
    """Send a number to both groups."""
    Group("plain").send(f"p{number}")
    Group("kept").send(f"k{number}")
    return HttpResponse("said\n")


urlpatterns = [*pages, path("say/<int:number>/", say)]
application = get_wsgi_application()
with open(os.environ["BENCH_LOADED"], "a") as file:
    file.write(f"{os.getpid()} {spent(os.getppid())}\n")

"""The test project's pages, and those that other software needs."""

from __future__ import annotations

from csp.constants import NONCE
from csp.decorators import csp_update
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import URLPattern, URLResolver, include, path

from tests.project.urls import urlpatterns as project_urlpatterns

__all__ = ["urlpatterns"]

PAGE = """<!doctype html><html><head><title>closed</title></head><body>{% load websockets %}
<script nonce="{{ request.csp_nonce }}">
const socket = new WebSocket("{% websocket_url 'echo' %}");
socket.onopen = () => socket.send("hello");
socket.onmessage = event => { document.title = event.data; };
</script></body></html>"""


@csp_update({"script-src": [NONCE]})
def page(request: HttpRequest) -> HttpResponse:
    """Show a page whose script opens a socket and shows the answer as the title."""
    return HttpResponse(engines["django"].from_string(PAGE).render({}, request))


urlpatterns: list[URLPattern | URLResolver] = [path("socket-page/", page), *project_urlpatterns]

if "debug_toolbar" in settings.INSTALLED_APPS:
    urlpatterns += [path("__debug__/", include("debug_toolbar.urls"))]

"""Pages and sockets of a tenant."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_wsmux.decorators import websocket


def page(request: HttpRequest) -> HttpResponse:
    """Return the page."""
    return HttpResponse("a page of the tenant")


@websocket
def talk(request: HttpRequest, websocket: Any) -> None:
    """Send the name of the tenant."""
    websocket.send("a socket of the tenant")


urlpatterns = [
    path("tenant/only-a-page/", page, name="only-a-page"),
    path("echo/", page),
    path("talk/", talk),
]

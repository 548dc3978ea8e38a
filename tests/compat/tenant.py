"""Pages of a tenant, and its sockets."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_wsmux.decorators import websocket


def page(request: HttpRequest) -> HttpResponse:
    """Be a page."""
    return HttpResponse("a page of the tenant")


@websocket
def talk(request: HttpRequest, websocket: Any) -> None:
    """Say whose it is."""
    websocket.send("a socket of the tenant")


urlpatterns = [
    path("tenant/only-a-page/", page, name="only-a-page"),
    path("echo/", page),
    path("talk/", talk),
]

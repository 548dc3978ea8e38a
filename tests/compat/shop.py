"""The pages of the host ``shop.localhost``."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["urlpatterns"]


def front(request: HttpRequest) -> HttpResponse:
    """Return the front page of the shop."""
    return HttpResponse("the shop")


# The path of a socket, too: the page must not answer its handshake.
urlpatterns = [path("front/", front, name="front"), path("echo/", front)]

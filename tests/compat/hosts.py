"""The hosts of a site that uses django-hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpResponse
from django_hosts import host, patterns

__all__ = ["host_patterns", "sockets_of_host"]

host_patterns = patterns(
    "",
    host(r"127\.0\.0\.1(:\d+)?", "tests.compat.pages", name="main"),
    host(r"shop\.localhost(:\d+)?", "tests.compat.shop", name="shop"),
)


def sockets_of_host(get_response: Callable[[Any], HttpResponse]) -> Callable[[Any], HttpResponse]:
    """Return a middleware that gives the shop its own sockets."""

    def middleware(request: Any) -> HttpResponse:
        if request.host.name == "shop":
            request.websocket_urlconf = "tests.compat.shop_sockets"
        return get_response(request)

    return middleware

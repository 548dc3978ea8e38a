"""The request of a handshake, and the one that replaces it for error reports."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory, override_settings

from django_wsmux.handlers.request import (
    WebSocketRequest,
    build_request,
    foreign_request,
    minimal_environ_of,
    minimal_request,
)


def request_of(path: str, **headers: Any) -> WebSocketRequest:
    """Return the request of an environ as servers make it."""
    environ = RequestFactory(headers=headers).get("/?token=x").environ
    return build_request({**environ, "PATH_INFO": path.encode().decode("latin-1")})


@pytest.mark.parametrize(
    ("host", "server"),
    [("testserver", ("testserver", "80")), ("[::1]:8000", ("[::1]", "8000"))],
)
@override_settings(ALLOWED_HOSTS=["*"])
def test_minimal_request(host: str, server: tuple[str, str]) -> None:
    """It has the URL of the handshake, without query and headers, and another address."""

    class Socket:
        environ = minimal_environ_of(request_of("/caf\u00e9/", host=host, cookie="a=b"))

    request = minimal_request(Socket(), "192.0.2.1")  # type: ignore[arg-type]
    assert request.path == "/caf\u00e9/"
    assert request.get_host() == host
    assert (request.META["SERVER_NAME"], request.META["SERVER_PORT"]) == server
    assert request.META["REMOTE_ADDR"] == "192.0.2.1"
    assert request.META["QUERY_STRING"] == ""
    assert request.COOKIES == {}
    assert request.websocket is None


def test_minimal_environs_are_shared() -> None:
    """Sockets of one URL share their environ."""
    first, second = (minimal_environ_of(request_of("/a/", cookie=name)) for name in ("x", "y"))
    assert first is second
    assert first is not minimal_environ_of(request_of("/b/"))


def test_urlconf() -> None:
    """Its URLconf is that of sockets, so that middleware resolves the right paths."""
    with override_settings(WEBSOCKET_URLCONF="tests.site.sockets"):
        assert request_of("/").urlconf == "tests.site.sockets"


def test_foreign_request() -> None:
    """The error names the type that middleware passed on, and the solution."""
    assert str(foreign_request({})).startswith("middleware has passed on <class 'dict'> instead")
    assert "copy.copy()" in str(foreign_request(None))

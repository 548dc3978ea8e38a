"""The dispatcher: which application gets a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from django_wsmux.server.dispatcher import Dispatcher, dispatchers


class Application:
    """Keeps the environs that it is called with."""

    def __init__(self) -> None:
        self.called: list[dict[str, Any]] = []

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        self.called.append(environ)
        return [b"page"]


@pytest.mark.parametrize("upgrade", [None, "", "h2c", "websockets"])
def test_other_requests(upgrade: str | None) -> None:
    """All requests but handshakes go to the first application, with the same environ."""
    pages, sockets = Application(), Application()
    dispatcher = Dispatcher(pages, sockets)
    environ: dict[str, Any] = {} if upgrade is None else {"HTTP_UPGRADE": upgrade}
    before = dict(environ)
    assert dispatcher(environ, lambda *args: None) == [b"page"]
    assert pages.called[0] is environ
    assert environ == before
    assert not sockets.called
    assert dispatcher in dispatchers


def test_server_without_sockets() -> None:
    """A handshake on a server whose connections cannot be taken over is refused with 501."""
    pages, sockets = Application(), Application()
    statuses: list[str] = []
    environ: dict[str, Any] = {
        "HTTP_UPGRADE": "WebSocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    setup_testing_defaults(environ)
    Dispatcher(pages, sockets)(environ, lambda status, *args: statuses.append(status))
    assert statuses == ["501 Not Implemented"]
    assert not pages.called + sockets.called

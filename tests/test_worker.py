"""The log lines of our worker at its start, and how it ends the request of an open socket."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from greenlet import getcurrent, greenlet

from django_wsmux.connection import link
from django_wsmux.protocol.masking import IS_COMPILED
from django_wsmux.server.takeover import TAKEN_ATTRIBUTE
from django_wsmux.worker import WebSocketWorker
from tests.support import ROOT, Server, handshake

StartServer = Callable[..., Server]


def test_start_line(start_server: StartServer) -> None:
    """The line shows the configuration, and no password."""
    backend = "redis://:secret@127.0.0.1:1/0"
    server = start_server("own", env={"TEST_BACKEND": backend})
    server.wait_for_log(
        rf"WebSockets: groups by redis://, codec in {'C' if IS_COMPILED else 'Python.*'}, "
        rf"reactor in {'C' if link.is_compiled else 'Python.*'}, "
        r"messages of up to 1048576 bytes, compression off, pings every 20 s, origins: this site, https://friend\.example"
    )
    assert "secret" not in server.log
    assert "No WebSocket can open" not in server.log


def test_start_line_without_c(start_server: StartServer, tmp_path: Path) -> None:
    """The line says that slow code is in use, and why."""
    config = tmp_path / "gunicorn.py"
    config.write_text(
        "import sys; sys.modules['django_wsmux.protocol._speedups'] = None\n"
        "sys.modules['django_wsmux.connection._reactor'] = None"
    )
    server = start_server("own", "-c", str(config))
    server.wait_for_log(
        "WebSockets: .* codec in Python, since there was no C compiler, "
        "reactor in Python, since it was not compiled when the package was installed, "
    )


# Code of wsgi.py: applications with and without WebSockets, some wrapped by middleware.
APPLICATIONS = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.project.settings")
from django.core.wsgi import get_wsgi_application
from django_wsmux.wsgi import WebSocketDispatcher, get_wsgi_websocket_application

def around(application):
    return lambda environ, start_response: application(environ, start_response)

if os.environ["KIND"] == "django":
    application = get_wsgi_application()
elif os.environ["KIND"] == "django, wrapped":
    application = around(get_wsgi_application())
elif os.environ["KIND"] == "django, beside another":
    application = get_wsgi_application()
    other = WebSocketDispatcher(application)
elif os.environ["KIND"] == "dispatcher, wrapped":
    application = around(WebSocketDispatcher(around(get_wsgi_application())))
elif os.environ["KIND"] == "sockets only, wrapped":
    application = around(get_wsgi_websocket_application())
"""


@pytest.mark.parametrize(
    ("kind", "is_right"),
    [
        ("django", False),
        ("django, wrapped", False),
        ("django, beside another", False),
        ("dispatcher, wrapped", True),
        ("sockets only, wrapped", True),
    ],
)
def test_no_dispatcher(
    start_server: StartServer, tmp_path: Path, kind: str, is_right: bool
) -> None:
    """A worker whose application has no WebSockets says so, and what to change."""
    (tmp_path / "served.py").write_text(APPLICATIONS)
    options = ("--preload",) if kind == "django, wrapped" else ()
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    env = {"KIND": kind, "PYTHONPATH": path}
    server = start_server("own", *options, env=env, application="served")
    server.wait_for_log(r"\] WebSockets: groups by")
    headers = "" if is_right else "Connection: close\r\n"
    with server.wire() as wire:
        wire.send(handshake("/echo/", headers))
        assert ("HTTP/1.1 101 " in wire.head()) is is_right
    cure = (
        r"\[ERROR\] No WebSocket can open: .* import get_wsgi_application from django_wsmux\.wsgi"
    )
    assert bool(re.search(cure, server.log)) is not is_right


class Body:
    """A body as middleware wraps it; records the server's calls."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        self.noted.append("read")
        yield b""

    def close(self) -> None:
        self.noted.append("closed")


@pytest.fixture
def worker() -> WebSocketWorker:
    """A worker that is not running."""
    return WebSocketWorker.__new__(WebSocketWorker)


def test_connection_of_a_socket_ends_without_a_response(worker: WebSocketWorker) -> None:
    """The body is read and closed, then gunicorn is told to end the connection."""
    body = Body()

    def answer() -> None:
        setattr(getcurrent(), TAKEN_ATTRIBUTE, True)
        with pytest.raises(StopIteration):
            worker.is_already_handled(body)

    greenlet(answer).switch()
    assert body.noted == ["read", "closed"]


def test_page_is_sent(worker: WebSocketWorker) -> None:
    """The body of a page is left to gunicorn."""
    body = Body()
    assert not worker.is_already_handled(body)
    assert body.noted == []

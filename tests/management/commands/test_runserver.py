"""``manage.py runserver``: everything that tests of views and frames do not cover."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.functional.test_conversation import closing
from tests.support import LOCAL, ROOT, TIMEOUT, Server, unused_port

StartServer = Callable[..., Server]

PLAIN = ("127.0.0.1:0", "--noreload")

APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
]
STATIC = "django.contrib.staticfiles"


def echo(websocket: ClientConnection) -> None:
    """Assert that an echo works."""
    websocket.send("still here")
    assert websocket.recv(timeout=TIMEOUT) == "still here"


# Removes what Python lacks on Windows before the package is imported, then serves.


class TestOptions:
    """The options of Django's command, and wrapped commands of other apps."""

    @pytest.mark.parametrize("options", [("[::1]:0",), ("--ipv6", "0")])
    def test_ipv6(self, start_server: StartServer, options: tuple[str, ...]) -> None:
        """The command listens on IPv6."""
        server = start_server("runserver", *options, "--noreload")
        with connect(f"ws://[::1]:{server.port}/echo/", **LOCAL) as websocket:
            echo(websocket)

    def test_nothreading(self, start_server: StartServer) -> None:
        """A socket would block all other requests: the start and refusals say so."""
        server = start_server("runserver", *PLAIN, "--nothreading")
        server.wait_for_log("With --nothreading WebSocket handshakes are refused with 501")
        answer = server.refused("/echo/")
        assert answer.status == 501
        assert "run it without --nothreading" in answer.text
        assert server.get("/").startswith("plain")

    def test_plain_application(self, start_server: StartServer) -> None:
        """A project with the wsgi.py of startproject has sockets, and gets advice."""
        server = start_server("runserver")
        with server.connect("/echo/") as websocket:
            echo(websocket)
        assert "The WSGI application has no WebSocketDispatcher: runserver adds one" in server.log

    def test_own_application(self, start_server: StartServer) -> None:
        """An application with a dispatcher stays as it is."""
        settings = json.dumps({"WSGI_APPLICATION": "tests.project.wsgi.application"})
        server = start_server("runserver", env={"TEST_SETTINGS": settings})
        with server.connect("/echo/") as websocket:
            echo(websocket)
        assert "WebSocketDispatcher" not in server.log

    @pytest.mark.parametrize(
        ("apps", "options", "status"),
        [
            ([STATIC], (), 200),
            ([STATIC], ("--nostatic",), 404),
            (["tests.project.nostatic", STATIC], (), 404),
            ([], (), 404),
        ],
    )
    def test_static_files(
        self,
        start_server: StartServer,
        tmp_path: Path,
        apps: list[str],
        options: tuple[str, ...],
        status: int,
    ) -> None:
        """The command of the next app keeps its options, and serves sockets too."""
        (tmp_path / "page.js").write_text("static")
        settings = {
            "INSTALLED_APPS": [*APPS, "django_wsmux", *apps],
            "STATIC_URL": "static/",
            "STATICFILES_DIRS": [str(tmp_path)],
        }
        env = {"TEST_SETTINGS": json.dumps(settings), "TEST_DEBUG": "1"}
        server = start_server("runserver", *PLAIN, *options, env=env)
        assert server.request("/static/page.js").status == status
        with server.connect("/echo/") as websocket:
            echo(websocket)

    def test_shadowed(self, start_server: StartServer) -> None:
        """Another app's command hides ours: handshakes are refused, with what to change."""
        settings = {"INSTALLED_APPS": [*APPS, STATIC, "django_wsmux"], "STATIC_URL": "static/"}
        env = {
            "TEST_SETTINGS": json.dumps(
                {**settings, "WSGI_APPLICATION": "tests.project.wsgi.application"}
            )
        }
        server = start_server("runserver", env=env)
        server.wait_for_log(r"\(django_wsmux.W004\)")
        answer = server.refused("/echo/")
        assert answer.status == 501
        assert "list django_wsmux in INSTALLED_APPS above django.contrib.staticfiles" in answer.text


class TestEnd:
    """Restarts and signals."""

    @pytest.mark.parametrize("path", ["/echo/", "/events/echo/"])
    def test_interrupted(self, start_server: StartServer, path: str) -> None:
        """CONTROL-C closes with 1012, and the view ends."""
        server = start_server("runserver")
        with server.connect(path) as websocket:
            echo(websocket)
            server.signal(signal.SIGINT)
            assert closing(websocket) == (1012, "service restart")
        assert server.wait() == 0
        server.wait_for_log(rf'"WEBSOCKET {path} CLOSE" 1012 [\d.]+s service restart')
        assert "Traceback" not in server.log

    def test_a_view_that_hangs(self, start_server: StartServer) -> None:
        """A view that does not notice does not keep the server from stopping."""
        server = start_server("runserver")
        with server.upgraded("/late-echo/never/") as wire:
            server.signal(signal.SIGINT)
            assert wire.closed(hangs_up=False) == (1012, "service restart")
            assert server.wait() == 0


# A project with an answer to change.
ANSWER = """
from django_wsmux.decorators import websocket

@websocket
def answer(request, websocket):
    for message in websocket:
        websocket.send("{answer}")
"""

PROJECT = {
    "settings.py": """
DEBUG = True
SECRET_KEY = "edited"
INSTALLED_APPS = ["django_wsmux"]
ROOT_URLCONF = "pages"
WEBSOCKET_URLCONF = "socket_urls"
WEBSOCKET_BACKEND = "memory://"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.utils.autoreload": {"handlers": ["console"], "level": "DEBUG"}},
}
""",
    "pages.py": "urlpatterns = []",
    "socket_urls.py": """
from django.urls import path
import views

urlpatterns = [path("answer/", views.answer)]
""",
    "views.py": ANSWER.format(answer="old"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project to edit."""
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def serve_project(directory: Path, *options: str) -> Server:
    """Start runserver for the project, on a port that stays the same when it restarts."""
    env = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"}
    return Server.runserver(f"127.0.0.1:{unused_port()}", *options, env=env)


def ask(websocket: ClientConnection) -> str | bytes:
    """Return the project's answer."""
    websocket.send("?")
    return websocket.recv(timeout=TIMEOUT)


def come_back(server: Server) -> str | bytes:
    """Connect until it works; return the project's answer."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            with server.connect("/answer/") as websocket:
                return ask(websocket)
        except (OSError, EOFError, InvalidHandshake):  # not listening yet, or about to stop
            assert time.monotonic() < deadline, "the server did not come back"
            time.sleep(0.02)


class TestReload:
    """An edit while a socket is open."""

    def test_edit(self, project: Path) -> None:
        """The socket is closed with 1012; a client that reconnects gets the new code."""
        server = serve_project(project)
        try:
            # The reloader does not notice an edit before that.
            server.wait_for_log("views.py first seen")
            with server.connect("/answer/") as websocket:
                assert ask(websocket) == "old"
                (project / "views.py").write_text(ANSWER.format(answer="another"))
                assert closing(websocket) == (1012, "service restart")
            assert come_back(server) == "another"
        finally:
            server.stop()

    def test_noreload(self, project: Path) -> None:
        """With --noreload, an edit changes nothing."""
        server = serve_project(project, "--noreload")
        try:
            with server.connect("/answer/") as websocket:
                assert ask(websocket) == "old"
                (project / "views.py").write_text(ANSWER.format(answer="another"))
                with pytest.raises(TimeoutError):
                    websocket.recv(timeout=2.5)
                assert ask(websocket) == "old"
        finally:
            server.stop()

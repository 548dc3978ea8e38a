"""``manage.py runserver``: everything that tests of views and frames do not cover."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.functional.test_conversation import closing
from tests.gauges import settled, wait_until
from tests.support import LOCAL, ROOT, TIMEOUT, Server, frame, unused_port

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


def threads(server: Server) -> list[str]:
    """Return the names of the server's threads, without the one that answers."""
    return [str(name) for name in json.loads(server.get("/threads/"))]


def fifty_members(server: Server, stack: ExitStack) -> list[ClientConnection]:
    """Open 50 sockets whose views have joined the group ``test``."""
    members = []
    for number in range(50):
        members.append(stack.enter_context(server.connect("/group/")))
        members[-1].send("count")
        assert members[-1].recv(timeout=TIMEOUT) == str(number + 1)
    return members


class TestProcess:
    """The process with open sockets, and afterwards."""

    def test_no_gevent(self, start_server: StartServer) -> None:
        """After views of both kinds, a group and a helper, no module of gevent is loaded."""
        server = start_server("runserver")
        for path in ("/echo/", "/events/echo/", "/group/", "/spawn/", "/select/", "/session/"):
            with server.connect(path) as websocket:
                websocket.send("x")
                websocket.recv(timeout=TIMEOUT)
        modules = json.loads(server.get("/modules/"))
        assert "django_wsmux.transports.threads" in modules
        unwanted = {"gevent", "geventwebsocket", "gunicorn"}
        assert [name for name in modules if name.partition(".")[0] in unwanted] == []

    def test_threads_end(self, start_server: StartServer) -> None:
        """50 sockets in a group have a thread each and one for all; all of them end."""
        server = start_server("runserver")
        with server.connect("/group/") as websocket:
            echo(websocket)
        settled(server)
        # The thread of the groups' backend starts with the first group and stays.
        lasting = ["MainThread", "django_wsmux backend"]
        wait_until(lambda: threads(server) == lasting, "no socket's thread")
        with ExitStack() as stack:
            sockets = fifty_members(server, stack)
            wait_until(lambda: len(threads(server)) == len(lasting) + 51, "51 threads")
            for number, each in enumerate(sockets):
                each.send(str(number))
            for each in sockets:
                received = {each.recv(timeout=TIMEOUT) for _ in sockets}
                assert received == {str(number) for number in range(50)}
        settled(server)
        wait_until(lambda: threads(server) == lasting, "all threads ended")

    def test_foreign_threads_close(self, start_server: StartServer) -> None:
        """One view closes the sockets of 50 others while they echo."""
        server = start_server("runserver")
        with ExitStack() as stack:
            sockets = fifty_members(server, stack)
            sockets[0].send("close")
            for each in sockets:
                assert closing(each) == (4000, "all out")
        settled(server)


UNIX_ONLY = {"fcntl", "posix", "pty", "pwd", "grp", "resource", "termios", "tty"}

# Removes what Python lacks on Windows before the package is imported, then serves.
WINDOWS = """
import os, select, selectors, socket, socketserver, sys, threading
import multiprocessing.reduction
import django.db.backends.sqlite3.base
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

for module in ("fcntl", "posix", "pwd", "grp", "resource", "termios"):
    sys.modules[module] = None
for owner, name in (
    (os, "eventfd"), (os, "register_at_fork"), (os, "fork"), (socket, "AF_UNIX"),
    (select, "poll"), (select, "epoll"),
):
    delattr(owner, name)
selectors.DefaultSelector = selectors.SelectSelector
sys.platform = "win32"

def socketpair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return socket.create_connection(listener.getsockname()), listener.accept()[0]

socket.socketpair = socketpair

from tests.project.wsgi import application
from django_wsmux.connection.readable import PairReadiness, Readiness
from django_wsmux.server.wsgiref import WebSocketServerMixin

assert Readiness is PairReadiness

class Server(WebSocketServerMixin, ThreadedWSGIServer):
    pass

server = Server(("127.0.0.1", 0), WSGIRequestHandler)
server.set_app(application)
print(f"Listening at: http://127.0.0.1:{server.server_port} ", flush=True)
server.serve_forever()
"""


class TestWindows:
    """Windows, as far as another system can show."""

    def test_without_unix(self, environment: dict[str, str]) -> None:
        """Without Unix features, echoes, groups and select() work."""
        server = Server("-c", WINDOWS, env=environment)
        try:
            for path in ("/echo/", "/events/echo/", "/group/"):
                with server.connect(path) as websocket:
                    echo(websocket)
            with server.upgraded("/select/") as wire:
                assert wire.frame() == (1, b"from the other source")
                wire.send(frame(0x81, b"one") + frame(0x81, b"two"))
                assert [wire.frame()[1] for _ in range(2)] == [b"one", b"two"]
        finally:
            server.stop()

    def test_imports(self, start_server: StartServer) -> None:
        """No module of the package that runserver has loaded imports a Unix-only module."""
        server = start_server("runserver")
        with server.connect("/group/") as websocket:
            echo(websocket)
        ours = [
            name
            for name in json.loads(server.get("/modules/"))
            if name.startswith("django_wsmux") and not name.endswith("._speedups")  # in C
        ]
        assert len(ours) > 20
        for name in ours:
            path = ROOT / name.replace(".", "/")
            source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Import):
                    assert not {each.name for each in node.names} & UNIX_ONLY, source
                elif isinstance(node, ast.ImportFrom):
                    assert node.module not in UNIX_ONLY, source


class TestLines:
    """What the terminal shows."""

    def test_open_and_close(self, start_server: StartServer) -> None:
        """Each has one line, with code and duration; no line for the request, and no traceback."""
        server = start_server("runserver")
        with server.connect("/echo/?a=b%20c") as websocket:
            echo(websocket)
            server.wait_for_log(r'"WEBSOCKET /echo/\?a=b%20c OPEN" 101\n')
            websocket.close(4000, "b\x1b[31mye")
        server.wait_for_log(
            r"\[\d\d/\w{3}/\d{4} [\d:]{8}\] "
            r'"WEBSOCKET /echo/\?a=b%20c CLOSE" 4000 \d+\.\d{3}s ' + re.escape(r"'b\x1b[31mye'")
        )
        server.get("/")
        server.wait_for_log(r'"GET / HTTP/1.1" 200')
        for absent in ("GET /echo/", "Traceback", "Error", "\x1b"):
            assert absent not in server.log
        assert server.log.count("WEBSOCKET") == 2

    def test_path_of_a_lean_socket(self, start_server: StartServer) -> None:
        """The lines show the path of a view that keeps no request."""
        server = start_server("runserver")
        with server.connect("/events/lean-echo/") as websocket:
            echo(websocket)
        server.wait_for_log(r'"WEBSOCKET /events/lean-echo/ CLOSE" 1000 \d+\.\d{3}s\n')

    def test_refused(self, start_server: StartServer) -> None:
        """A refusal is logged like any other request."""
        server = start_server("runserver")
        assert server.refused("/status/403/").status == 403
        server.wait_for_log(r'"GET /status/403/ HTTP/1.1" 403 10\n')
        assert "WEBSOCKET" not in server.log

    def test_exception(self, start_server: StartServer) -> None:
        """A view that fails shows its traceback; with DEBUG, the page gets the error too."""
        server = start_server("runserver", env={"TEST_DEBUG": "1"})
        with server.connect("/crash/") as websocket:
            websocket.send("go")
            code, reason = closing(websocket)
            assert code == 1011
            assert reason.startswith("500 ValueError: it broke")
        server.wait_for_log(
            r"Internal Server Error: /crash/\nTraceback (.*\n)+?ValueError: it broke"
        )
        server.wait_for_log(r'"WEBSOCKET /crash/ CLOSE" 1011 \d+\.\d{3}s 500 ValueError: it broke')

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
    def test_colours(self, environment: dict[str, str]) -> None:
        """On a terminal the lines have the colours of Django's responses."""
        command = [sys.executable, "-m", "django", "runserver", *PLAIN]
        program = f"import pty; pty.spawn({command!r})"
        server = Server("-c", program, env={**environment, "DJANGO_COLORS": "dark"})
        try:
            with server.connect("/echo/") as websocket:
                echo(websocket)
            with server.connect("/crash/") as websocket:
                websocket.send("go")
                closing(websocket)
            with server.upgraded("/echo/"):
                pass
            # http_info is bold, http_server_error bold magenta, http_bad_request bold red, and
            # http_success has no colour.
            server.wait_for_log(r'\x1b\[1m"WEBSOCKET /echo/ OPEN" 101\x1b\[0m')
            server.wait_for_log(r'\] \x1b\[m"WEBSOCKET /echo/ CLOSE" 1000 [\d.]+s')
            server.wait_for_log(r'\x1b\[35;1m"WEBSOCKET /crash/ CLOSE" 1011 .*\x1b\[0m')
            server.wait_for_log(r'\x1b\[31;1m"WEBSOCKET /echo/ CLOSE" 1006 [\d.]+s\x1b\[0m')
        finally:
            server.stop()


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

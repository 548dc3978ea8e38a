"""WebSockets on a server of ``wsgiref``, as on Windows."""

from __future__ import annotations

import ast
import json

from tests.conftest import StartServer
from tests.management.commands.test_runserver import echo
from tests.support import ROOT, Server, frame

UNIX_ONLY = {"fcntl", "posix", "pty", "pwd", "grp", "resource", "termios", "tty"}


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
            if name.startswith("django_wsmux")
            and not name.endswith(("._speedups", "._reactor"))  # in C
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

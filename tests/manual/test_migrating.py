"""Runs the code of ``docs/migrating.rst``: all of "after", and "before" as far as possible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import unittest
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.template import engines
from django.urls import clear_url_caches
from websockets.sync.client import ClientConnection

from django_wsmux import conf
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.testing.client import close_all
from tests.conftest import need
from tests.manual.walkthrough import page
from tests.services import RedisServer
from tests.support import ROOT, TIMEOUT, WORKERS, Server

PAGE = (ROOT / "docs" / "migrating.rst").read_text()

#: Title of a section, and its text.
SECTIONS = dict(re.findall(r"^(From .+)\n-+\n((?:(?!^From .+\n-).*\n)*)", PAGE, re.MULTILINE))

Use = Callable[[str], None]


def blocks(text: str, kind: str) -> dict[str, str]:
    """Return the files of a text that are labelled "before" or "after"."""
    found = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", text)
    files = {}
    for block in map(textwrap.dedent, found):
        label, _, code = block.partition("\n")
        match = re.fullmatch(r"# (before|after|before and after): (\S+)", label)
        assert match, f"{label!r} is no label"
        if kind in match[1].split():
            assert match[2] not in files
            files[match[2]] = code
    return files


def write(directory: Path, files: dict[str, str]) -> None:
    """Write the files as a package ``mysite``."""
    (directory / "mysite").mkdir()
    (directory / "mysite" / "__init__.py").touch()
    for name, code in files.items():
        (directory / name).write_text(code)


@pytest.fixture
def use(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Install the project of a section, as it is after the migration."""

    def use(title: str) -> None:
        write(tmp_path, blocks(SECTIONS[title], "after"))
        monkeypatch.syspath_prepend(tmp_path)
        settings.WEBSOCKET_URLCONF = "mysite.websocket_urls"

    yield use
    close_all()
    clear_url_caches()
    for name in [name for name in sys.modules if name.split(".")[0] == "mysite"]:
        del sys.modules[name]


def test_everything_compiles() -> None:
    """All code compiles, including "before", whose libraries are not installed."""
    assert len(SECTIONS) == 4
    for kind in ("before", "after"):
        for text in SECTIONS.values():
            for name, code in blocks(text, kind).items():
                compile(code, f"{kind}: {name}", "exec")


def test_common() -> None:
    """The lines at the top of the page are those that a project needs."""
    files = blocks(PAGE[: PAGE.index("\nFrom ")], "after")
    namespace: dict[str, Any] = {"INSTALLED_APPS": ["django.contrib.auth"]}
    exec(files["mysite/settings.py"], namespace)
    assert namespace["INSTALLED_APPS"] == ["django_wsmux", "django.contrib.auth"]
    assert namespace["WEBSOCKET_URLCONF"] == "mysite.websocket_urls"
    # This file runs under gunicorn in that test.
    (tutorial,) = (each.text for each in page("tutorial.rst") if each.file == "mysite/wsgi.py")
    assert files["mysite/wsgi.py"].split() == tutorial.split()


#: From README.rst of django-gevent-websocket 0.2.0, verbatim but for the dots in it.
OLD_README = """
from select import select

import redis

from django_websocket.decorators import websocket, websocket_loop

@websocket
def chat(request, websocket, *args, **kwargs):

    conn = redis.StrictRedis()
    subs = conn.pubsub()
    subs.subscribe('CHAT')

    def incoming():
        data = websocket.receive()
        if data:
            conn.publish('CHAT', data)

    def outgoing():
        msg_type, channel, message = subs.parse_response()
        if msg_type == 'message':
            websocket.send(message)

    sockets = {
        websocket.handler.socket.fileno(): incoming,
        subs.connection._sock.fileno(): outgoing
    }

    while not websocket.closed:
        fd = select(sockets.keys(), [], [])[0][0]
        sockets[fd]()

@websocket_loop
def ping(request, websocket):
    data = websocket.receive()
    if data == 'ping':
        websocket.send('pong')
"""

#: Its template, which was meant for a separate server.
OLD_TEMPLATE = """
{% load websockets %}

<script>
  var ws = new WebSocket("{% websocket_url 'chat' %}");
</script>
"""

#: Its URLs, in the syntax of today's Django.
OLD_URLS = """
from django.urls import re_path
from mysite import sockets

urlpatterns = [
    re_path(r'^chat/$', sockets.chat, name='chat'),
    re_path(r'^ping/$', sockets.ping, name='ping'),
]
"""

#: The Redis client of the test returns text, as that of Python 2 did.
OLD_SETTINGS = """
from tests.project.settings import *
import os
import redis

WEBSOCKET_URLCONF = 'mysite.websocket_urls'

class StrictRedis(redis.Redis):
    def __init__(self):
        port = int(os.environ['REDIS_URL'].rpartition(':')[2].partition('/')[0])
        super().__init__(port=port, decode_responses=True)

redis.StrictRedis = StrictRedis
"""


def hear(websocket: ClientConnection, text: str) -> None:
    """Receive until the text arrives; redis-py's buffer may hold one message behind another."""
    for _ in range(100):
        try:
            if websocket.recv(timeout=0.2) == text:
                return
        except TimeoutError:
            websocket.send("are you there")
    raise AssertionError(f"{text!r} has not come")


class TestDjangoGeventWebSocket:
    """From django-gevent-websocket."""

    TITLE = "From django-gevent-websocket"

    def test_import_lines(self, tmp_path: Path) -> None:
        """The project runs when only its imports change: views, URLconf, wsgi.py, worker."""
        need("redis-server")
        files = {
            name: code.replace("django_websocket", "django_wsmux")
            for name, code in blocks(SECTIONS[self.TITLE], "before").items()
        }
        # The settings of a project that has installed the package, in two lines.
        files["mysite/settings.py"] = (
            "from tests.project.settings import *\n"
            "import os\n"
            "WEBSOCKET_URLCONF = 'mysite.websocket_urls'\n"
            "REDIS_URL = os.environ['REDIS_URL']\n"
        )
        write(tmp_path, files)
        redis = RedisServer(tmp_path)
        try:
            server = self.serve(tmp_path, redis.url)
            try:
                with server.connect("/chat/") as ann, server.connect("/chat/") as bob:
                    assert {ann.recv(timeout=TIMEOUT), bob.recv(timeout=TIMEOUT)} == {"welcome"}
                    for text in ("hello", "again"):
                        ann.send(text)
                        assert ann.recv(timeout=TIMEOUT) == text
                        assert bob.recv(timeout=TIMEOUT) == text
            finally:
                server.stop()
            assert "Traceback" not in server.log
        finally:
            redis.stop()

    def test_old_readme(self, tmp_path: Path) -> None:
        """The examples of its README run, under the server that it required."""
        need("redis-server")
        before = dict(blocks(SECTIONS[self.TITLE], "before"))
        files = {
            "mysite/sockets.py": OLD_README,
            "mysite/websocket_urls.py": OLD_URLS,
            "mysite/settings.py": OLD_SETTINGS,
            "mysite/wsgi.py": before["mysite/wsgi.py"],
        }
        files = {
            name: code.replace("django_websocket", "django_wsmux") for name, code in files.items()
        }
        write(tmp_path, files)
        redis = RedisServer(tmp_path)
        try:
            server = self.serve(tmp_path, redis.url)
            try:
                with server.connect("/ping/") as websocket:
                    websocket.send("ping")
                    assert websocket.recv(timeout=TIMEOUT) == "pong"
                with server.connect("/chat/") as ann, server.connect("/chat/") as bob:
                    hear(bob, "are you there")
                    for text in ("hello", "again"):
                        ann.send(text)
                        hear(ann, text)
                        hear(bob, text)
            finally:
                server.stop()
            assert "Traceback" not in server.log
        finally:
            redis.stop()

    def test_old_template(self, settings: Any) -> None:
        """The template tag is the same."""
        settings.WEBSOCKET_SERVER = "127.0.0.1:8001"
        settings.WEBSOCKET_URLCONF = "tests.project.websocket_urls"
        template = OLD_TEMPLATE.replace("'chat'", "'echo'")
        page = engines["django"].from_string(template).render()
        assert 'new WebSocket("ws://127.0.0.1:8001/echo/")' in page

    def serve(self, directory: Path, redis_url: str) -> Server:
        """Serve the sockets of a project as with the older package."""
        return Server.gunicorn(
            WORKERS["stock"],
            application="mysite.wsgi:websocket",
            env={
                "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}",
                "DJANGO_SETTINGS_MODULE": "mysite.settings",
                "REDIS_URL": redis_url,
            },
        )

    def test_table(self, settings: Any) -> None:
        """The names in the right column exist."""
        row = r"``django_websocket\.(\w+)`` +``django_wsmux\.\1``: ((?:.|\n {20,})+)"
        rows = {module: re.findall(r"``(\w+)``", names) for module, names in re.findall(row, PAGE)}
        assert rows == {
            "decorators": ["websocket", "websocket_loop"],
            "wsgi": ["get_wsgi_websocket_application"],
        }
        for module, names in rows.items():
            for name in names:
                assert callable(getattr(import_module(f"django_wsmux.{module}"), name))
        for name in ("WEBSOCKET_URLCONF", "WEBSOCKET_SERVER"):
            assert name in conf.SETTINGS
        settings.WEBSOCKET_SERVER = "ws.example.com:8001"
        settings.WEBSOCKET_URLCONF = "tests.site.sockets"
        template = engines["django"].from_string(
            "{% load websockets %}{% websocket_url 'function' %}"
        )
        assert template.render() == "ws://ws.example.com:8001/function/"

    def test_group(self, use: Use) -> None:
        """The same chat works with a group."""
        use(self.TITLE)
        client = WebSocketClient()
        with client.websocket("/chat/") as ann, client.websocket("/chat/") as bob:
            assert (ann.receive(), bob.receive()) == ("welcome", "welcome")
            ann.send("hello")
            assert (ann.receive(), bob.receive()) == ("hello", "hello")


@pytest.mark.django_db
def test_channels(use: Use) -> None:
    """The page's own tests pass; a task reaches the members."""
    use("From Django Channels")
    tests = unittest.defaultTestLoader.loadTestsFromModule(import_module("mysite.tests"))
    result = unittest.TestResult()
    tests.run(result)
    assert not result.failures + result.errors, result
    assert result.testsRun == 2
    with socket_of("/chat/lobby/", User.objects.get_or_create(username="bob")[0]) as ws:
        import_module("mysite.tasks").announce("closing time")
        assert ws.receive_json() == {"user": "staff", "text": "closing time"}


def socket_of(path: str, user: User) -> ClientWebSocket:
    """Open a socket as a signed-in user."""
    client = WebSocketClient()
    client.force_login(user)
    return client.websocket(path)


def test_flask_sock(use: Use) -> None:
    """The view counts, and closes after a minute of silence."""
    use("From flask-sock and simple-websocket")
    with WebSocketClient().websocket("/count/ann/") as ws:
        ws.send("hi")
        assert ws.receive() == "ann has said 1, at last hi"
        ws.peek(timeout=59)
        assert not ws.closed
        ws.peek(timeout=61)
        assert (ws.close_code, ws.close_reason) == (1000, "too quiet")
    with WebSocketClient().websocket("/count/bob/") as ws:
        ws.close(1001)


class TestGeventWebSocket:
    """From gevent-websocket."""

    TITLE = "From gevent-websocket"

    def test_environ(self, use: Use, caplog: pytest.LogCaptureFixture) -> None:
        """A view that takes the socket from the environ echoes, and ends without an error."""
        use(self.TITLE)
        with WebSocketClient().websocket("/echo/") as ws:
            for message in ("text", b"binary", ""):
                ws.send(message)
                assert ws.receive() == message
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    def test_application(self, use: Use, capsys: pytest.CaptureFixture[str]) -> None:
        """An application becomes a view."""
        use(self.TITLE)
        client = WebSocketClient()
        with client.websocket("/chat/") as ann:
            with client.websocket("/chat/") as bob:
                ann.send("hello")
                assert (ann.receive(), bob.receive()) == ("hello", "hello")
            assert capsys.readouterr().out == "someone has left\n"

    def test_before(self) -> None:
        """The code of "before" is a program for the original package."""
        program = blocks(SECTIONS[self.TITLE], "before")["server.py"]
        # Not as __main__: everything runs but the server.
        command = [sys.executable, "-c", f"exec({program!r}, {{'__name__': 'server'}})"]
        subprocess.run(command, check=True)

"""The pytest plugin, in separate runs of pytest."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.support import ROOT

PLUGIN = "django_wsmux.testing.plugin"

TESTS = """
import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from websockets.sync.client import connect
from django_wsmux import conf
from django_wsmux.connection import registry
from django_wsmux.test import SimpleWebSocketTestCase, WebSocketClient

pytestmark = pytest.mark.usefixtures("sockets")


@pytest.fixture
def sockets():
    with override_settings(WEBSOCKET_URLCONF="tests.site.sockets", STATIC_URL="static/"):
        yield


def test_echo(websocket_client):
    assert type(websocket_client) is WebSocketClient
    with websocket_client.websocket("/function/") as ws:
        ws.send("hi")
        assert ws.receive() == "hi"
    websocket_client.websocket("/function/")


def test_closed_after_the_test():
    assert not registry.open_sockets


@pytest.mark.parametrize("fixture", ["websocket_client", "websocket_live_server"])
def test_groups_stay_in_the_process(fixture, request):
    assert conf.get("WEBSOCKET_BACKEND") == "local://"
    request.getfixturevalue(fixture)
    assert conf.get("WEBSOCKET_BACKEND") == "memory://"


class Tests(SimpleWebSocketTestCase):
    def test_groups_stay_in_the_process(self):
        assert conf.get("WEBSOCKET_BACKEND") == "memory://"


def test_no_database(websocket_client):
    ws = websocket_client.websocket("/event/")
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        ws.send("save ann")


@pytest.mark.django_db
def test_database(websocket_client):
    websocket_client.force_login(User.objects.create(username="ann"))
    with websocket_client.websocket("/event/private/") as ws:
        assert ws.receive() == "ann"


@pytest.mark.parametrize("name", ["dan", "eve"])
def test_live_server(websocket_live_server, websocket_client, name):
    url = f"{websocket_live_server.ws_url}/event/"
    with websocket_client.websocket("/event/") as first, connect(url) as ws:
        ws.send(f"save {name}")
        assert ws.recv(timeout=20) == "1"
        ws.send("say hello")
        assert ws.recv(timeout=20) == "hello"
        assert first.receive() == "hello"
    assert User.objects.get().username == name


@pytest.mark.parametrize("name", ["bob", "cid"])
def test_database_asked_for_later(websocket_client, name, db):
    ws = websocket_client.websocket("/event/")
    ws.send(f"save {name}")
    assert ws.receive() == "1"
    websocket_client.websocket("/counting/")
"""


def run_pytest(directory: Path, tests: str, *options: str, **env: str) -> str:
    """Run these tests; return pytest's output."""
    (directory / "test_it.py").write_text(tests)
    plugins = ["-p", PLUGIN, *options]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", *plugins, "."],
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **env,
        },
        capture_output=True,
        text=True,
    )
    return result.stdout + result.stderr


def test_client(tmp_path: Path) -> None:
    """``websocket_client`` is for sockets what pytest-django's ``client`` is for pages."""
    output = run_pytest(
        tmp_path,
        TESTS,
        "-p",
        "pytest_django.plugin",
        DJANGO_SETTINGS_MODULE="tests.project.settings",
        TEST_BACKEND="local://",
    )
    assert re.search(r"\b11 passed in", output), output


def test_without_django(tmp_path: Path) -> None:
    """The plugin does not import Django in a run without it."""
    tests = (
        "import sys\n"
        "def test_plain():\n"
        "    assert 'django_wsmux.testing.plugin' in sys.modules\n"
        "    for name in ('django', 'gevent', 'greenlet', 'websockets'):\n"
        "        assert name not in sys.modules\n"
        "def test_skipped(websocket_client): ...\n"
    )
    output = run_pytest(tmp_path, tests)
    assert re.search(r"\b1 passed, 1 skipped in", output), output
    assert "no Django settings" in output


def test_entry_point() -> None:
    """pytest finds the plugin of an installed package."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    line = parser["options.entry_points"]["pytest11"].strip()
    name, _, value = line.partition(" = ")
    assert EntryPoint(name, value, "pytest11").load() is sys.modules[PLUGIN]


@pytest.mark.parametrize("fixture", ["websocket_client", "websocket_live_server"])
def test_listed(tmp_path: Path, fixture: str) -> None:
    """``pytest --fixtures`` explains it."""
    output = run_pytest(tmp_path, "", "--fixtures")
    assert re.search(rf"^{fixture} -- .*\n    \S", output, re.MULTILINE), output

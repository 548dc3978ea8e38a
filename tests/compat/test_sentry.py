"""Sentry, set up as in its documentation: open sockets are no errors, exceptions of views are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.compat.collector import Collector
from tests.compat.conftest import StartServer, start_site
from tests.compat.test_wrappers import VIEWS, talk
from tests.gauges import wait_until
from tests.support import ROOT, SERVERS, Server


@pytest.fixture(
    scope="module",
    params=[*((worker, False) for worker in SERVERS), *((worker, True) for worker in SERVERS)],
    ids=lambda param: f"{param[0]}{'-around' if param[1] else ''}",
)
def site(
    request: pytest.FixtureRequest, start_lasting_server: StartServer, collector: Collector
) -> Server:
    """Every server with the SDK, and with its middleware around the dispatcher."""
    worker, is_around = request.param
    more = {"SENTRY_AROUND": "1"} if is_around else {}
    env = {"COMPAT": "sentry", "SENTRY_DSN": collector.dsn, **more}
    return start_site(start_lasting_server, worker, **env)


def test_sockets(site: Server, collector: Collector) -> None:
    """Sockets and refusals report no event; an exception reports one."""
    collector.items.clear()
    for path in VIEWS:
        talk(site, path, {})
    for path, status in (("/private/", 302), ("/denied/", 403), ("/nowhere/", 404)):
        assert site.refused(path).status == status
    assert site.refused("/crash-before/").status == 500
    wait_until(collector.errors, "the event of the crash")
    wait_until(lambda: collector.statuses("/crash-before/"), "the end of the last transaction")
    assert collector.errors() == ["ValueError"]
    for path in VIEWS:
        (ended,) = collector.statuses(path)
        assert ended in (None, "ok", "unknown"), ended
    assert "StopIteration" not in site.log
    assert "LookupError" not in site.log


IN_PROCESS = """
import os
import django
import sentry_sdk
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.project.settings"
sentry_sdk.init("http://key@127.0.0.1:9/1", traces_sample_rate=1.0)
django.setup()
from django_wsmux.test import HandshakeRefused, WebSocketClient
client = WebSocketClient()
for path in ("/echo/", "/events/echo/", "/plain-echo/"):
    with client.websocket(path) as websocket:
        websocket.send("hello")
        assert websocket.receive() == "hello"
try:
    client.websocket("/status/404/")
except HandshakeRefused as error:
    assert error.response.content == b"status 404"
else:
    raise AssertionError("not refused")
"""


def test_client(environment: dict[str, str]) -> None:
    """The test client opens sockets with the SDK in its process."""
    subprocess.run(
        [sys.executable, "-c", IN_PROCESS], cwd=ROOT, env={**os.environ, **environment}, check=True
    )

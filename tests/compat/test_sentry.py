"""Sentry, as its documentation has it: an open socket is no error, an error of a view is one."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.compat.conftest import StartServer, start_site
from tests.compat.test_wrappers import VIEWS, talk
from tests.gauges import wait_until
from tests.support import ROOT, SERVERS, Server

pytest.importorskip("sentry_sdk")


class Collector:
    """What Sentry's servers are to the SDK, as far as taking envelopes goes."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")
                collector.take(body)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.dsn = f"http://key@127.0.0.1:{self.server.server_address[1]}/1"

    def take(self, body: bytes) -> None:
        """Take an envelope: a header, then items of a header and a payload each."""
        _, _, rest = body.partition(b"\n")
        while rest.strip():
            line, _, rest = rest.partition(b"\n")
            header = json.loads(line)
            size = header.get("length", rest.find(b"\n"))
            payload, rest = rest[:size], rest[size + 1 :]
            if header["type"] in ("event", "transaction"):
                self.items.append((header["type"], json.loads(payload)))

    def errors(self) -> list[str]:
        """Return the types of the errors reported so far."""
        return [
            value["type"]
            for kind, item in self.items
            if kind == "event"
            for value in item.get("exception", {}).get("values", [])
        ]

    def statuses(self, path: str) -> list[str | None]:
        """Return how the transactions of a path have ended."""
        return [
            item["contexts"]["trace"].get("status")
            for kind, item in self.items
            if kind == "transaction" and urlsplit(item["request"]["url"]).path == path
        ]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Takes what the SDK sends."""
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


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
    """They open, talk and are refused without an event; what raises is one event."""
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

"""Tests each cell of the table in ``docs/servers.rst``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.test import override_settings
from websockets.exceptions import InvalidStatus

from django_wsmux.connection import registry
from django_wsmux.groups.pubsub import ALONE
from django_wsmux.test import HandshakeRefused, LiveServerTestCase, WebSocketClient
from django_wsmux.testing.live import close_live_sockets
from tests.manual import table
from tests.project import state
from tests.support import (
    ROOT,
    TIMEOUT,
    WORKERS,
    Server,
    Site,
    handshake,
    tls_context,
)

StartServer = Callable[..., Server]

HEAD = ("what", "own", "gevent", "stock", "pywsgi", "runserver", "live", "client", "other")
ROWS = table("servers.rst", *HEAD)

#: All cells, without empty ones.
CELLS = [
    (row[0], HEAD[number], cell)
    for row in ROWS
    for number, cell in enumerate(row)
    if number and cell != "-"
]

#: Settings of all servers, with which every row can be tested.
SETTINGS: dict[str, Any] = {
    "WEBSOCKET_PING_INTERVAL": 0.2,
    "WEBSOCKET_COMPRESSION": True,
    "WEBSOCKET_BLOCKED_WARNING": 0.2,
}
BACKEND = f"local://?namespace={uuid4().hex}"

#: The names of these servers elsewhere in the tests.
NAMES = {"pywsgi": "direct", "other": "gthread"}

#: Fewer than the sockets that are opened.
FEW = 10


@dataclass(frozen=True)
class Target:
    """A server of the table.

    Attributes:
        name: its name in the table.
        site: its address.
        start: starts another server of the same kind.
    """

    name: str
    site: Site
    start: Callable[..., Server]

    @property
    def server(self) -> Server:
        """The server process."""
        assert isinstance(self.site, Server)
        return self.site


def started(start: StartServer, name: str, *options: str, **settings: Any) -> Server:
    """Start a server of the table."""
    worker = NAMES.get(name, name)
    if worker not in ("direct", "runserver"):
        options = ("--access-logfile", "-", f"--worker-connections={FEW}", *options)
    env = {"TEST_SETTINGS": json.dumps(SETTINGS | settings), "TEST_BACKEND": BACKEND}
    return start(worker, *options, env=env)


@pytest.fixture(scope="module")
def servers(start_lasting_server: StartServer) -> dict[str, Server]:
    """The servers of the table, each started on first use."""

    class Servers(dict[str, Server]):
        def __missing__(self, name: str) -> Server:
            self[name] = started(start_lasting_server, name)
            return self[name]

    return Servers()


@pytest.fixture
def live_port(transactional_db: None, settings: Any) -> Iterator[int]:
    """The port of a live server, started as by a test case."""
    settings.STATIC_URL = settings.MEDIA_URL = "files/"

    class LiveTests(LiveServerTestCase):
        pass

    with override_settings(WEBSOCKET_BACKEND=ALONE):
        LiveTests.setUpClass()
        yield LiveTests.server_thread.port
        close_live_sockets()
        LiveTests.doClassCleanups()


@pytest.fixture
def target(
    request: pytest.FixtureRequest,
    servers: dict[str, Server],
    start_server: StartServer,
    settings: Any,
    name: str,
) -> Target:
    """The server of a cell."""
    for setting, value in SETTINGS.items():
        setattr(settings, setting, value)
    site = Site(request.getfixturevalue("live_port")) if name == "live" else servers[name]
    return Target(name, site, lambda **settings: started(start_server, name, **settings))


# Probes; each returns the content of the cell


def pages(target: Target) -> str:
    """Return whether the port of the sockets serves pages."""
    return "yes" if target.site.get("/").startswith("plain") else "no"


def echo(path: str) -> Callable[[Target], str]:
    """Return a probe of whether a message comes back."""

    def probe(target: Target) -> str:
        try:
            with target.site.connect(path) as websocket:
                websocket.send("hello")
                return "yes" if websocket.recv(timeout=TIMEOUT) == "hello" else "no"
        except InvalidStatus as error:
            return str(error.response.status_code)

    return probe


def refusal(target: Target) -> str:
    """Return how a client sees that a view refuses with 403."""
    with target.site.wire() as wire:
        wire.send(handshake("/status/403/"))
        status = wire.head().split()[1]
        return str(wire.closed()[0]) if status == "101" else {"403": "HTTP"}[status]


def threads(target: Target) -> str:
    """Return whether twenty quiet sockets of an event view hold threads."""
    before = len(json.loads(target.site.get("/threads/")))
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(target.site.connect("/events/echo/"))
        more = len(json.loads(target.site.get("/threads/"))) - before
    # Threads of earlier sockets may end meanwhile.
    return "yes" if more >= 10 else "no"


def places(target: Target) -> str:
    """Return whether sockets hold slots: open more than there are, then request a page."""
    with ExitStack() as stack:
        for _ in range(FEW + 2):
            stack.enter_context(target.site.connect("/echo/"))
        return {"yes": "no"}[pages(target)]


#: Another process of the project.
SENDER = "import django; django.setup(); from django_wsmux.groups import Group as G;"
SENDER += "G('test').send('from another')"


def send_from_another_process() -> None:
    """Send to the group from another process."""
    backend = django_settings.WEBSOCKET_BACKEND
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "TEST_BACKEND": BACKEND if backend == ALONE else backend,
    }
    subprocess.run([sys.executable, "-c", SENDER], cwd=ROOT, env=env, check=True)


def groups(target: Target) -> str:
    """Return whether a message from another process arrives."""
    with target.site.connect("/group/") as websocket:
        websocket.send("joined")
        assert websocket.recv(timeout=TIMEOUT) == "joined"
        send_from_another_process()
        if target.name != "live":
            return "yes" if websocket.recv(timeout=TIMEOUT) == "from another" else "no"
        websocket.send("first")
        return "no" if websocket.recv(timeout=TIMEOUT) == "first" else "yes"


def compression(target: Target) -> str:
    """Return whether a client that offers compression gets it."""
    with target.site.connect("/echo/") as websocket:
        return "yes" if websocket.protocol.extensions else "no"


def pings(target: Target) -> str:
    """Return whether a quiet socket is pinged."""
    with target.site.upgraded("/echo/") as wire:
        return "yes" if wire.frame()[0] == 9 else "no"


def flooded(target: Target) -> str:
    """Return whether a view waits that sends more than its peer takes."""
    with target.site.upgraded("/flood/", receive_buffer=4096) as wire:
        sent = [-1]
        while sent.count(sent[-1]) < 5:
            time.sleep(0.05)
            sent.append(int(json.loads(target.site.get("/report/flood/"))["report"] or 0))
        assert wire
        return "yes" if 0 < sent[-1] < 256 else "no"


def lines(target: Target) -> str:
    """Return whether a socket has a line in the log."""
    with target.site.connect("/rooms/lobby/") as websocket:
        websocket.recv(timeout=TIMEOUT)
    if target.name == "pywsgi":
        assert echo("/echo/")(target) == "yes"
        return "yes" if "WEBSOCKET" in target.server.log else "no"
    return "yes" if target.server.wait_for_log(r'"WEBSOCKET /rooms/lobby/.*" 1000 ') else "no"


def dawdling(target: Target) -> str:
    """Return whether a client that sends nothing gets a 408."""
    # The limit is short, so other tests must not use this server.
    with target.start(WEBSOCKET_HANDSHAKE_TIMEOUT=0.5).wire() as wire:
        wire.sock.settimeout(TIMEOUT if target.name == "own" else 1.5)
        try:
            return "yes" if " 408 " in wire.head() else "no"
        except TimeoutError:
            return "no"


def computing(target: Target) -> str:
    """Return whether a view that blocks the event loop is logged."""
    with target.site.connect("/computing/") as websocket:
        websocket.send("go")
        assert websocket.recv(timeout=TIMEOUT) == "done"
    if target.name == "runserver":
        return "yes" if "The event loop was blocked" in target.server.log else "no"
    return "yes" if target.server.wait_for_log("The event loop was blocked") else "no"


def end(target: Target) -> str:
    """Return the close code when the server stops or the test ends."""
    if target.name == "live":
        with target.site.upgraded("/echo/") as wire:
            assert registry.open_sockets
            close_live_sockets()
            return closing_code(wire)
    server = target.start()
    with server.upgraded("/echo/") as wire:
        server.signal(signal.SIGINT if target.name == "runserver" else signal.SIGTERM)
        return closing_code(wire)


def closing_code(wire: Any) -> str:
    """Return the code of the close frame; 1006 without one."""
    while head := wire.read(2):
        payload = wire.read(head[1])
        if head[0] & 0x0F == 8:
            return str(int.from_bytes(payload[:2], "big"))
    return "1006"


PROBES: dict[str, Callable[[Target], str]] = {
    "pages on the same port": pages,
    "function views": echo("/echo/"),
    "event views": echo("/events/echo/"),
    "a refusal is": refusal,
    "an idle event view holds a thread": threads,
    "a socket holds a gunicorn slot": places,
    "groups reach other processes": groups,
    "compression, if it is on": compression,
    "pings": pings,
    "send() waits for a slow peer": flooded,
    "a line in the log for each socket": lines,
    "408 if no request arrives": dawdling,
    "blocking views are logged": computing,
    "close code at shutdown": end,
}


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [cell for cell in CELLS if cell[1] != "client" and cell[0] in PROBES],
)
def test_server(target: Target, row: str, name: str, expected: str) -> None:
    """The cell is right."""
    assert PROBES[row](target) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [cell[1:] for cell in CELLS if cell[0] == "TLS ended by the server"]
)
def test_tls(start_server: StartServer, certificate: Path, name: str, expected: str) -> None:
    """A server with its own certificate serves sockets."""
    assert name in WORKERS
    server = started(start_server, name, "--certfile", str(certificate))
    server.context = tls_context(certificate)
    assert echo("/echo/")(Target(name, server, lambda: server)) == expected


# The test client


def client_echo(path: str) -> Callable[[WebSocketClient], str]:
    """Return a probe of whether a message comes back."""

    def probe(client: WebSocketClient) -> str:
        with client.websocket(path) as ws:
            ws.send("hello")
            return "yes" if ws.receive() == "hello" else "no"

    return probe


def client_pages(client: WebSocketClient) -> str:
    """Return whether the same client gets pages."""
    return "yes" if client.get("/").status_code == 200 else "no"


def client_refusal(client: WebSocketClient) -> str:
    """Return how the client shows that a view refuses with 403."""
    with pytest.raises(HandshakeRefused) as error:
        client.websocket("/status/403/")
    return {403: "HTTP"}[error.value.response.status_code]


def client_threads(client: WebSocketClient) -> str:
    """Return whether quiet sockets of an event view hold threads."""
    before = len(client.get("/threads/").json())
    with client.websocket("/events/echo/"), client.websocket("/events/echo/"):
        return "yes" if len(client.get("/threads/").json()) > before else "no"


def client_groups(client: WebSocketClient) -> str:
    """Return whether a message from another process arrives."""
    with client.websocket("/group/") as ws:
        send_from_another_process()
        return "yes" if ws.peek() else "no"


def client_compression(client: WebSocketClient) -> str:
    """Return whether the client offers compression."""
    with client.websocket("/echo/") as ws:
        return "yes" if ws.response.headers.get("Sec-WebSocket-Extensions") else "no"


def client_pings(client: WebSocketClient) -> str:
    """Return whether a ping is sent while time passes."""
    with client.websocket("/echo/") as ws:
        ws.peek(timeout=60)
        (websocket,) = registry.open_sockets
        return "no" if websocket.latency is None else "yes"


def client_flooded(client: WebSocketClient) -> str:
    """Return whether a view waits that sends much to a client that does not receive."""
    with client.websocket("/flood/"):
        return "no" if state.reports["flood"] == "256" else "yes"


CLIENT_PROBES: dict[str, Callable[[WebSocketClient], str]] = {
    "pages on the same port": client_pages,
    "function views": client_echo("/echo/"),
    "event views": client_echo("/events/echo/"),
    "a refusal is": client_refusal,
    "an idle event view holds a thread": client_threads,
    "groups reach other processes": client_groups,
    "compression, if it is on": client_compression,
    "pings": client_pings,
    "send() waits for a slow peer": client_flooded,
}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("row", "expected"), [(row, cell) for row, name, cell in CELLS if name == "client"]
)
def test_client(websocket_client: WebSocketClient, settings: Any, row: str, expected: str) -> None:
    """The cell of the test client is right."""
    for setting, value in SETTINGS.items():
        setattr(settings, setting, value)
    assert CLIENT_PROBES[row](websocket_client) == expected


def test_nothing_is_left_out() -> None:
    """Each row is tested, and each server is described above the table."""
    assert {row[0] for row in ROWS} == {*PROBES, "TLS ended by the server"}
    text = (ROOT / "docs" / "servers.rst").read_text()
    assert re.findall(r"^\* \*\*(\w+)\*\*:", text, re.MULTILINE) == list(HEAD[1:])

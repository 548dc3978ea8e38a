"""The proxy of the client's tests cuts, delays, freezes and refuses WebSockets."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidHandshake

from tests.conftest import StartServer
from tests.support import TIMEOUT, Server, Site

from .proxy import Proxy


@pytest.fixture(scope="module")
def server(start_lasting_server: StartServer) -> Server:
    """A server that all tests share."""
    return start_lasting_server("own")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy that passes everything on."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.stop()


def test_passes_on(proxy: Proxy) -> None:
    """Pages and sockets pass through; the proxy counts the sockets."""
    site = Site(proxy.port)
    assert site.get("/").startswith("plain ")
    assert (proxy.handshakes, proxy.open) == (0, 0)
    with site.connect("/echo/") as websocket:
        websocket.send("hello")
        assert websocket.recv(TIMEOUT) == "hello"
        assert (proxy.handshakes, proxy.open) == (1, 1)
    deadline = time.monotonic() + TIMEOUT
    while proxy.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (proxy.handshakes, proxy.open) == (1, 0)


def test_cut(proxy: Proxy) -> None:
    """A socket that is cut ends without a close frame, and the next one works."""
    site = Site(proxy.port)
    with site.connect("/echo/") as websocket:
        proxy.cut()
        with pytest.raises(ConnectionClosedError) as caught:
            websocket.recv(TIMEOUT)
        assert caught.value.rcvd is None
    with site.connect("/echo/") as websocket:
        websocket.send("hello")
        assert websocket.recv(TIMEOUT) == "hello"


def test_freeze(proxy: Proxy) -> None:
    """What is sent during a freeze arrives afterwards."""
    with Site(proxy.port).connect("/echo/") as websocket:
        proxy.freeze()
        websocket.send("hello")
        with pytest.raises(TimeoutError):
            websocket.recv(0.3)
        proxy.resume()
        assert websocket.recv(TIMEOUT) == "hello"


def test_delay(proxy: Proxy) -> None:
    """A message and its echo take the delay each."""
    with Site(proxy.port).connect("/echo/") as websocket:
        proxy.delay(0.1)
        began = time.monotonic()
        websocket.send("hello")
        assert websocket.recv(TIMEOUT) == "hello"
        assert time.monotonic() - began >= 0.2


def test_refuse(proxy: Proxy) -> None:
    """A handshake is reset; sockets that are open stay so, and pages are served."""
    site = Site(proxy.port)
    with site.connect("/echo/") as websocket:
        proxy.refuse()
        with pytest.raises((OSError, InvalidHandshake, EOFError)), site.connect("/echo/"):
            pass
        assert site.get("/").startswith("plain ")
        websocket.send("hello")
        assert websocket.recv(TIMEOUT) == "hello"
    proxy.resume()
    with site.connect("/echo/") as websocket:
        websocket.send("hello")
        assert websocket.recv(TIMEOUT) == "hello"


def test_control(proxy: Proxy) -> None:
    """A command over HTTP does the same and answers with the state."""

    def command(text: str) -> dict[str, int]:
        with urllib.request.urlopen(proxy.control + text, timeout=TIMEOUT) as response:
            state: dict[str, int] = json.load(response)
            return state

    with Site(proxy.port).connect("/echo/") as websocket:
        assert command("state") == {"handshakes": 1, "open": 1}
        command("cut")
        with pytest.raises(ConnectionClosedError):
            websocket.recv(TIMEOUT)
    command("delay?seconds=0.1")
    assert proxy._seconds == 0.1

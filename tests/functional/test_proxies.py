"""Sockets behind nginx, Caddy, HAProxy and Apache, with the configurations of the manual."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.conftest import need
from tests.gauges import reported, wait_until
from tests.proxies import (
    LEAST,
    PROXIES,
    SOCKETS_BACKEND,
    TWO_PORTS,
    Change,
    Kind,
    ReverseProxy,
)
from tests.support import TIMEOUT, WORKERS, Server, frame

StartServer = Callable[..., Server]
StartProxy = Callable[..., ReverseProxy]

EVIL = "https://evil.example"


def starting(directory: Path, certificate: Path) -> Iterator[StartProxy]:
    """Yield a function that starts proxies; stop them afterwards."""
    with ExitStack() as stack:

        def start(kind: Kind, backend: int | Path, *changes: Change) -> ReverseProxy:
            need(kind.program)
            own = Path(tempfile.mkdtemp(dir=directory))
            proxy = ReverseProxy(kind, own, certificate, backend, changes)
            stack.callback(proxy.stop)
            return proxy

        yield start


@pytest.fixture
def start_proxy(tmp_path: Path, certificate: Path) -> Iterator[StartProxy]:
    """Start proxies, stopped after the test."""
    yield from starting(tmp_path, certificate)


@pytest.fixture(scope="module")
def start_lasting_proxy(
    tmp_path_factory: pytest.TempPathFactory, certificate: Path
) -> Iterator[StartProxy]:
    """Start proxies that several tests share, stopped after the module."""
    yield from starting(tmp_path_factory.mktemp("proxies"), certificate)


@pytest.fixture(scope="module")
def unix_socket() -> Iterator[Path]:
    """A short path for gunicorn's unix socket, in a directory that nginx's workers may enter."""
    directory = Path(tempfile.mkdtemp(prefix="gunicorn-"))
    directory.chmod(0o755)
    yield directory / "socket"
    shutil.rmtree(directory)


SETTINGS = {
    "SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"],
    "SESSION_COOKIE_SECURE": True,
    "WEBSOCKET_DRAIN_SECONDS": 0,
}


@pytest.fixture(scope="module")
def backend(start_lasting_server: StartServer, unix_socket: Path) -> Server:
    """The server behind the proxies, at a port and at a unix socket."""
    env = {"TEST_SETTINGS": json.dumps(SETTINGS)}
    # As if the proxy were on another machine: gunicorn itself trusts no address.
    options = ("-b", f"unix:{unix_socket}", "--forwarded-allow-ips", "192.0.2.1")
    return start_lasting_server("own", *options, env=env)


def ready(server: Server) -> Server:
    """Wait until its worker answers, which may take longer than an impatient proxy waits."""
    assert server.get("/").startswith("plain ")
    return server


@pytest.fixture(scope="module")
def pinging_backend(start_lasting_server: StartServer) -> Server:
    """A server that pings every half second."""
    env = {"TEST_PING_INTERVAL": "0.5", "TEST_PING_TIMEOUT": "0.5"}
    return ready(start_lasting_server("own", env=env))


@pytest.fixture(scope="module")
def silent_backend(start_lasting_server: StartServer) -> Server:
    """A server that sends no pings."""
    return ready(start_lasting_server("own", env={"TEST_PING_INTERVAL": "0"}))


@pytest.fixture(scope="module", params=PROXIES)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the manual's files for a real site."""
    return PROXIES[request.param]


@pytest.fixture(scope="module")
def proxy(start_lasting_proxy: StartProxy, kind: Kind, backend: Server) -> ReverseProxy:
    """Each of the proxies, in front of the same server."""
    return start_lasting_proxy(kind, backend.port)


def closed(websocket: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the close; return code and reason."""
    with pytest.raises(ConnectionClosed):
        websocket.recv(timeout=TIMEOUT)
    return websocket.close_code, websocket.close_reason


def come_back(proxy: ReverseProxy) -> ClientConnection:
    """Connect until accepted, like clients that are told to come back later."""
    opened: list[ClientConnection] = []
    refusals: set[tuple[int, str | None]] = set()

    def is_let_in() -> bool:
        try:
            opened.append(proxy.connect("/echo/"))
        except InvalidStatus as error:
            answer = error.response
            refusals.add((answer.status_code, answer.headers.get("Retry-After")))
        return bool(opened)

    wait_until(is_let_in, "a worker that lets the client in")
    assert refusals <= {(503, "1")}
    return opened[0]


class TestOneAddress:
    """Pages and sockets work as without a proxy."""

    def test_pages_and_sockets(self, proxy: ReverseProxy) -> None:
        """One port serves both, in turn."""
        for number in range(3):
            assert proxy.get("/").startswith("plain ")
            with proxy.connect("/echo/") as websocket:
                websocket.send(f"number {number}")
                assert websocket.recv(timeout=TIMEOUT) == f"number {number}"

    def test_large_messages(self, proxy: ReverseProxy) -> None:
        """A message of 1 MiB passes in both directions."""
        message = os.urandom(2**20)
        with proxy.connect("/echo/") as websocket:
            websocket.send(message)
            assert websocket.recv(timeout=TIMEOUT) == message

    def test_redirect_to_tls(self, proxy: ReverseProxy, kind: Kind) -> None:
        """A proxy with TLS redirects plain requests to it."""
        if kind.is_secure:
            answer = proxy.plain.request("/page/")
            assert answer.status in (301, 302, 308)
            assert answer.headers["Location"].startswith("https://")

    def test_refusals(self, proxy: ReverseProxy) -> None:
        """Responses instead of the 101 arrive unchanged."""
        answer = proxy.refused("/status/403/")
        assert (answer.status, answer.text) == (403, "status 403")
        assert answer.headers["Retry-After"] == "7"
        assert proxy.refused("/missing/").status == 404
        assert proxy.refused("/private/").headers["Location"] == "/login/?next=/private/"


class TestOutside:
    """What Django knows about the client's side of the proxy."""

    def known(self, proxy: ReverseProxy, **headers: str) -> dict[str, Any]:
        with proxy.connect("/outside/", additional_headers=headers) as websocket:
            known: dict[str, Any] = json.loads(websocket.recv(timeout=TIMEOUT))
        return known

    def test_host_and_scheme(self, proxy: ReverseProxy, kind: Kind) -> None:
        """Host and scheme are those of the browser."""
        known = self.known(proxy)
        assert known["host"] == f"127.0.0.1:{proxy.port}"
        assert known["secure"] is kind.is_secure
        assert known["for"] == "127.0.0.1"

    def test_claims_of_the_client(self, proxy: ReverseProxy, kind: Kind) -> None:
        """Headers of the client do not count: the last address is the one that the proxy saw."""
        claims = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
        known = self.known(proxy, **claims)
        assert known["secure"] is kind.is_secure
        assert known["for"].replace(" ", "").split(",")[-1] == "127.0.0.1"
        claims["X-Forwarded-Proto"] = "http"
        assert self.known(proxy, **claims)["secure"] is kind.is_secure

    def test_urls(self, proxy: ReverseProxy) -> None:
        """URLs have the host of the proxy."""
        scheme = {"http": "ws", "https": "wss"}[proxy.scheme]
        assert proxy.get("/page/").startswith(f"{scheme}://127.0.0.1:{proxy.port}/echo/ ")

    def test_origin(self, proxy: ReverseProxy) -> None:
        """The site's own pages may connect; other pages, and its own without TLS, may not."""
        own = f"{proxy.scheme}://127.0.0.1:{proxy.port}"
        with proxy.connect("/echo/", origin=own) as websocket:
            websocket.send("own")
            assert websocket.recv(timeout=TIMEOUT) == "own"
        foreign = [EVIL, f"{proxy.scheme}://127.0.0.1:{proxy.port + 1}"]
        if proxy.scheme == "https":
            foreign.append(f"http://127.0.0.1:{proxy.port}")
        for origin in foreign:
            assert proxy.refused("/echo/", {"Origin": origin}).status == 403

    def test_session(self, proxy: ReverseProxy) -> None:
        """The session cookie, which is for TLS only, signs the socket in."""
        name = uuid4().hex
        (cookie,) = (
            cookie
            for cookie in proxy.request(f"/login/?user={name}").headers.get_all("Set-Cookie", [])
            if cookie.startswith("sessionid=")
        )
        assert "Secure" in cookie
        headers = {"Cookie": cookie.partition(";")[0]}
        with proxy.connect("/private/", additional_headers=headers) as websocket:
            assert websocket.recv(timeout=TIMEOUT) == name


class TestEnd:
    """Each side sees how the other one ends a socket."""

    def test_server_closes(self, proxy: ReverseProxy) -> None:
        """Code and reason arrive."""
        with proxy.connect("/closing/4001/enough/") as websocket:
            assert closed(websocket) == (4001, "enough")

    def test_client_closes(self, proxy: ReverseProxy, backend: Server) -> None:
        """Code and reason arrive."""
        key = uuid4().hex
        with proxy.connect(f"/report/{key}/") as websocket:
            websocket.close(4002, "bye")
        assert reported(backend, key) == "4002 bye []"

    def test_client_dies(self, proxy: ReverseProxy, backend: Server) -> None:
        """After a FIN or RST without a close frame, the view sees 1006."""
        host = f"127.0.0.1:{proxy.port}"
        key = uuid4().hex
        with proxy.upgraded(f"/report/{key}/", host=host):
            pass
        assert reported(backend, key).startswith("1006 ")
        key = uuid4().hex
        with proxy.upgraded(f"/report/{key}/", host=host) as wire:
            wire.send(frame(0x81, b"x"))
            wire.reset()
        assert reported(backend, key).startswith("1006 ")

    def test_worker_leaves(self, proxy: ReverseProxy, backend: Server) -> None:
        """When a worker stops, every client gets 1012 and can reconnect.

        The stopping worker still answers on connections that a proxy keeps open to it, with
        503; the client then tries again.
        """
        with ExitStack() as stack:
            sockets = [stack.enter_context(proxy.connect("/echo/")) for _ in range(3)]
            assert proxy.get("/").startswith("plain ")
            (worker,) = backend.workers
            os.kill(worker, signal.SIGTERM)
            for websocket in sockets:
                assert closed(websocket) == (1012, "service restart")
        with come_back(proxy) as websocket:
            websocket.send("again")
            assert websocket.recv(timeout=TIMEOUT) == "again"


def test_pings_keep_it_open(
    start_proxy: StartProxy, kind: Kind, pinging_backend: Server, silent_backend: Server
) -> None:
    """A proxy cuts a WebSocket that is idle for its limit, here a second."""
    pinging = start_proxy(kind, pinging_backend.port, kind.timeout)
    silent = start_proxy(kind, silent_backend.port, kind.timeout)
    with silent.connect("/echo/") as idle:
        with pinging.upgraded("/echo/", host=f"127.0.0.1:{pinging.port}") as wire:
            for _ in range(3):
                opcode, payload = wire.frame()
                assert opcode == 9
                wire.send(frame(0x8A, payload))
            wire.send(frame(0x81, b"still there"))
            assert wire.frame() == (1, b"still there")
        assert closed(idle)[0] == 1006


def test_unix_socket(
    start_proxy: StartProxy, kind: Kind, backend: Server, unix_socket: Path
) -> None:
    """The same works over a unix socket, without ports."""
    proxy = start_proxy(kind, unix_socket)
    assert proxy.get("/").startswith("plain ")
    own = f"{proxy.scheme}://127.0.0.1:{proxy.port}"
    with proxy.connect("/outside/", origin=own) as websocket:
        known = json.loads(websocket.recv(timeout=TIMEOUT))
    assert (known["secure"], known["for"]) == (kind.is_secure, "127.0.0.1")


def test_addresses(start_server: StartServer, start_proxy: StartProxy, kind: Kind) -> None:
    """WEBSOCKET_TRUSTED_PROXIES: the address that the proxy saw counts, not the client's claim."""
    settings = {"WEBSOCKET_MAX_SOCKETS_PER_ADDRESS": 2, "WEBSOCKET_TRUSTED_PROXIES": 1}
    server = start_server("own", env={"TEST_SETTINGS": json.dumps({**SETTINGS, **settings})})
    outside = start_proxy(kind, server.port)
    host = f"127.0.0.1:{outside.port}"
    with ExitStack() as stack:
        for number in range(2):
            claim = f"X-Forwarded-For: 192.0.2.{number}\r\n"
            stack.enter_context(outside.upgraded("/echo/", claim, host=host))
        assert json.loads(server.get("/places/")) == [2, {"127.0.0.1": 2}, {}]
        assert outside.refused("/echo/", {"X-Forwarded-For": "192.0.2.3"}).status == 429


@pytest.mark.parametrize("worker", WORKERS)
def test_minimal_nginx(start_server: StartServer, start_proxy: StartProxy, worker: str) -> None:
    """One location of nginx with two headers is enough for any worker."""
    proxy = start_proxy(LEAST, start_server(worker).port)
    with proxy.connect("/echo/") as websocket:
        websocket.send("through nginx")
        assert websocket.recv(timeout=TIMEOUT) == "through nginx"
    assert [proxy.get("/").split()[0] for _ in range(5)] == ["plain"] * 5
    assert proxy.refused("/status/403/").status == 403


def test_two_ports(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Pages and sockets have separate servers, as with the older package, and one address."""
    pages = start_server("sync")
    sockets = start_server("stock", application="tests.project.wsgi:websocket")
    proxy = start_proxy(TWO_PORTS, pages.port, (SOCKETS_BACKEND, f"127.0.0.1:{sockets.port}"))
    origin = f"http://127.0.0.1:{proxy.port}"
    assert proxy.get("/").startswith("plain ")
    assert proxy.request("/echo/").status == 404
    cookie = {"Cookie": proxy.sign_in("ann")}
    with proxy.connect("/private/", additional_headers=cookie, origin=origin) as websocket:
        assert websocket.recv(timeout=TIMEOUT) == "ann"
    with proxy.connect("/any/%D0%BA%25/?a=%20b", origin=origin) as websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=TIMEOUT) == "hello"
    assert proxy.refused("/echo/", {"Origin": EVIL}).status == 403
    assert proxy.refused("/nowhere/", {"Origin": origin}).status == 404
    assert proxy.request("/__ws__/echo/").status == 404
    sockets.signal(signal.SIGTERM)
    sockets.wait()
    assert "/__ws__" not in sockets.log

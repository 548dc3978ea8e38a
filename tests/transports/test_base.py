"""A peer that breaks a rule receives the reason, even if it goes on sending."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request

from tests.conftest import need
from tests.functional.test_proxies import SETTINGS
from tests.gauges import reported, settled
from tests.proxies import PROXIES, ReverseProxy
from tests.support import PATH, SERVERS, TIMEOUT, Server, Site, frame

StartServer = Callable[..., Server]

#: More than all buffers on the way hold, so that most of it is sent after the close frame.
LARGE = 8 * 2**20

CLOSE = frame(0x88, (1000).to_bytes(2, "big"))

#: What a peer sends first, what it sends then, and the code of the answer.
BROKEN = {
    "too large": (b"\x82\xff" + LARGE.to_bytes(8, "big") + b"\0\0\0\0", bytes(LARGE), 1009),
    "no text": (
        b"\x81\xff" + (2**20).to_bytes(8, "big") + b"\0\0\0\0\xff",
        bytes(2**20 - 1) + frame(0x82, bytes(2**16)) * 100,
        1007,
    ),
    "reserved": (frame(0xF2, b"x"), frame(0x82, bytes(2**16)) * 100, 1002),
    "not masked": (b"\x82\x01x", frame(0x82, bytes(2**16)) * 100, 1002),
}


@pytest.fixture(scope="module", params=SERVERS)
def patient(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A server with a long close timeout."""
    server: Server = start_lasting_server(request.param, env={"TEST_CLOSE_TIMEOUT": "60"})
    return server


@pytest.mark.parametrize("kind", BROKEN)
def test_until_the_peer_has_closed(patient: Server, kind: str) -> None:
    """The server's FIN comes after the peer's close frame, and never a reset."""
    start, rest, code = BROKEN[kind]
    with patient.upgraded("/echo/") as wire:
        wire.send(start)
        opcode, payload = wire.frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (8, code)
        wire.send(rest)
        wire.sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # it would be the end of the stream
            wire.sock.recv(1, socket.MSG_PEEK)
        wire.sock.settimeout(TIMEOUT)
        wire.send(CLOSE)
        assert wire.rest() == b""
    settled(patient)


def test_a_peer_that_never_closes(start_server: StartServer) -> None:
    """The server reads on for WEBSOCKET_CLOSE_TIMEOUT."""
    server = start_server("own", env={"TEST_CLOSE_TIMEOUT": "1"})
    with server.upgraded("/echo/") as wire:
        wire.send(frame(0xF2, b"x"))
        assert wire.closed(hangs_up=False) == (1002, "reserved bits set")
    settled(server)


@pytest.fixture(scope="module")
def outside(
    start_lasting_server: StartServer,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: Path,
) -> Iterator[tuple[ReverseProxy, Server]]:
    """nginx that terminates TLS, and the server behind it."""
    need("nginx")
    env = {"TEST_SETTINGS": json.dumps(SETTINGS), "TEST_CLOSE_TIMEOUT": "60"}
    server = start_lasting_server("own", env=env)
    directory = tmp_path_factory.mktemp("nginx")
    proxy = ReverseProxy(PROXIES["nginx-tls"], directory, certificate, server.port)
    yield proxy, server
    proxy.stop()


def wsproto_code(site: Site) -> int:
    """Send too much with wsproto before reading anything; return the close code."""
    assert site.context is not None
    plain = socket.create_connection(("127.0.0.1", site.port), timeout=TIMEOUT)
    with site.context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
        client = WSConnection(ConnectionType.CLIENT)
        sock.sendall(client.send(Request(host=f"127.0.0.1:{site.port}", target="/echo/")))
        while True:
            data = sock.recv(65536)
            assert data, "the connection was lost"
            client.receive_data(data)
            for event in client.events():
                if isinstance(event, AcceptConnection):
                    sock.sendall(client.send(BytesMessage(data=bytes(LARGE))))
                elif isinstance(event, CloseConnection):
                    with suppress(OSError):
                        sock.sendall(client.send(event.response()))
                    return event.code


def websockets_code(site: Site) -> int | None:
    """Do the same with websockets, which reads meanwhile."""
    with site.connect("/echo/") as websocket:
        with suppress(Exception):
            websocket.send(bytes(LARGE))
            websocket.recv(timeout=TIMEOUT)
        with suppress(Exception):
            websocket.recv(timeout=TIMEOUT)
    return websocket.close_code


@pytest.mark.parametrize("code_of", [wsproto_code, websockets_code])
def test_behind_nginx(
    outside: tuple[ReverseProxy, Server], code_of: Callable[[Site], int | None]
) -> None:
    """Clients learn that the message was too large."""
    assert [code_of(outside[0]) for _ in range(10)] == [1009] * 10


@contextmanager
def firefox(site: Site, path: str, certificate: Path, directory: Path) -> Iterator[None]:
    """Make Firefox open a page."""
    need("firefox-esr")
    found = ssl.PEM_cert_to_DER_cert(
        certificate.read_text().partition("-----END PRIVATE KEY-----")[2].strip()
    )
    fingerprint = ":".join(f"{byte:02X}" for byte in hashlib.sha256(found).digest())
    # As if a user had accepted the certificate; the number is that of SHA-256.
    (directory / "cert_override.txt").write_text(
        f"127.0.0.1:{site.port}:\tOID.2.16.840.1.101.3.4.2.1\t{fingerprint}\t\n"
    )
    options = ["--headless", "--no-remote", "--profile", str(directory)]
    yield from running("firefox-esr", *options, f"https://127.0.0.1:{site.port}{path}")


@contextmanager
def chromium(site: Site, path: str, certificate: Path, directory: Path) -> Iterator[None]:
    """Make Chromium open a page."""
    need("chromium")
    options = [
        "--headless",
        "--no-sandbox",  # root cannot have a sandbox
        "--disable-gpu",
        "--ignore-certificate-errors",
        "--remote-debugging-port=0",  # otherwise Chromium ends when the page is loaded
        f"--user-data-dir={directory}",
    ]
    yield from running("chromium", *options, f"https://127.0.0.1:{site.port}{path}")


def running(*command: str) -> Iterator[None]:
    """Run a program; end it and its children."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": PATH},
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(TIMEOUT)


@pytest.mark.parametrize("browser", [firefox, chromium])
def test_browsers_behind_nginx(
    outside: tuple[ReverseProxy, Server],
    certificate: Path,
    tmp_path: Path,
    browser: Callable[..., AbstractContextManager[None]],
) -> None:
    """Pages in browsers learn it too."""
    proxy, server = outside
    key = uuid4().hex
    codes: list[str] = []
    with browser(proxy, f"/too-large/{key}/", certificate, tmp_path):
        for _ in range(6):  # a browser takes its time to start
            with suppress(AssertionError):
                codes = reported(server, key).split(",")
                break
    assert codes == ["1009"] * 10

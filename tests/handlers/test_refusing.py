"""Refusals that a page's script can see: accepted, and closed at once with a code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import need
from tests.gauges import wait_until
from tests.sample_site.conftest import new_window
from tests.support import SERVERS, TIMEOUT, Server, Wire, frame, handshake

StartServer = Callable[..., Server]

#: The headers that browsers send by themselves.
BROWSER = "Origin: http://localhost\r\nSec-Fetch-Mode: websocket\r\n"

V1 = "Sec-WebSocket-Protocol: wsmux.v1, wsmux.at.e30\r\n"


@pytest.fixture(scope="module", params=SERVERS)
def closing(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """Every server, configured to close when it refuses browsers."""
    settings = {"WEBSOCKET_REFUSALS": "close", "ALLOWED_HOSTS": ["localhost", "127.0.0.1"]}
    return start_lasting_server(request.param, env={"TEST_SETTINGS": json.dumps(settings)})


def ask(wire: Wire, path: str, more: str = BROWSER) -> str:
    """Send a handshake; return the head of the response."""
    wire.send(handshake(path, more))
    return wire.head()


def refusal(server: Server, path: str, more: str = BROWSER) -> tuple[int, str]:
    """Return code and reason of a refusal; the client answers the close as browsers do."""
    with server.wire() as wire:
        head = ask(wire, path, more)
        assert head.startswith("HTTP/1.1 101 "), head
        opcode, payload = wire.frame()
        assert opcode == 8
        wire.send(frame(0x88, payload[:2]))
        assert wire.rest() == b""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


#: What scripts read: path, code and reason.
CODES = [
    ("/private/", 4401, "302 Found"),
    ("/status/401/", 4401, "401 Unauthorized"),
    ("/status/302/", 4302, "302 Found"),
    ("/denied/", 4403, "403 Forbidden"),
    ("/nowhere/", 4404, "404 Not Found"),
    ("/page/", 4200, "200 OK"),
    ("/status/429/", 1013, "429 Too Many Requests"),
    ("/status/503/", 1013, "503 Service Unavailable"),
    ("/crash-before/", 1011, "500 Internal Server Error"),
    ("/events/private/", 4401, "302 Found"),
    ("/events/telling/", 4403, "403 Forbidden"),
    ("/telling/", 4401, "302 Found"),
]


@pytest.mark.parametrize(("path", "code", "reason"), CODES)
def test_codes(closing: Server, path: str, code: int, reason: str) -> None:
    """The code tells a script what to do; the reason is the status."""
    assert refusal(closing, path) == (code, reason)


@pytest.mark.parametrize("path", ["/untelling/", "/events/untelling/"])
def test_view_says_http(closing: Server, path: str) -> None:
    """A view can refuse with HTTP, with any setting."""
    with closing.wire() as wire:
        assert ask(wire, path).startswith(("HTTP/1.1 302 ", "HTTP/1.1 403 "))


@pytest.mark.parametrize(("path", "code"), [("/telling/", 4401), ("/events/telling/", 4403)])
def test_view_says_close(front: Server, path: str, code: int) -> None:
    """A view can refuse with a close, with any setting; refusals before the view are plain HTTP."""
    assert refusal(front, path)[0] == code
    with front.wire() as wire:
        assert ask(wire, "/nowhere/").startswith("HTTP/1.1 404 ")


@pytest.mark.parametrize("more", ["", "Origin: http://localhost\r\n"])
def test_others_get_http(closing: Server, more: str) -> None:
    """Clients other than browsers can read the response."""
    with closing.wire() as wire:
        assert ask(wire, "/nowhere/", more).startswith("HTTP/1.1 404 ")


def test_foreign_pages_get_http(closing: Server) -> None:
    """Pages of another site, or with another Host, get no socket at all."""
    foreign = BROWSER.replace("//localhost", "//evil.example")
    for more in (foreign, foreign + V1):
        with closing.wire() as wire:
            assert ask(wire, "/nowhere/", more).startswith("HTTP/1.1 403 ")
    with closing.wire() as wire:
        wire.send(handshake("/nowhere/", BROWSER + V1, host="evil.example"))
        assert wire.head().startswith("HTTP/1.1 400 ")


def test_subprotocol_and_cookies(closing: Server) -> None:
    """One of the client's subprotocols is selected; cookies are set, other headers are not."""
    offered = "Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n"
    with closing.wire() as wire:
        head = ask(wire, "/nowhere/", BROWSER + offered)
    assert "Sec-WebSocket-Protocol: chat.v1\r\n" in head
    assert "Set-Cookie: flavour=Chocolate; Path=/\r\n" in head
    assert "X-Mixed-Case" not in head


def test_v1(front: Server) -> None:
    """A client of the subprotocol wsmux.v1 gets close codes, and is told when to return."""
    for path, code, reason in CODES:
        if code != 1013:
            assert refusal(front, path, V1) == (code, reason)
    assert refusal(front, "/untelling/", V1) == (4401, "302 Found")
    with front.wire() as wire:
        assert "Sec-WebSocket-Protocol: wsmux.v1\r\n" in ask(wire, "/status/429/", V1)
        assert wire.frame() == (1, b'{"bye":{"after":7.0}}')
        assert wire.frame()[1][:2] == (1013).to_bytes(2, "big")


def test_never_open(closing: Server) -> None:
    """A refusal is counted as such, and no socket is left."""
    before = json.loads(closing.get("/metrics/"))
    refusal(closing, "/nowhere/")
    after = json.loads(closing.get("/metrics/"))
    for name, more in (("handshakes_refused", 1), ("refusals_closed", 1), ("sockets_opened", 0)):
        assert after[name] == before[name] + more
    assert json.loads(closing.get("/report/none/"))["open"] == 0


def test_silent_client(closing: Server) -> None:
    """A client that does not close is closed; its messages are dropped."""
    with closing.wire() as wire:
        assert ask(wire, "/nowhere/").startswith("HTTP/1.1 101 ")
        wire.send(frame(0x81, b"hello") * 3)
        assert wire.closed(hangs_up=False) == (4404, "404 Not Found")


def test_caps(start_server: StartServer) -> None:
    """Refusals by limits before Django are closed too, and do not count as sockets."""
    settings = {"WEBSOCKET_REFUSALS": "close", "WEBSOCKET_MAX_SOCKETS": 1}
    server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    with server.connect("/echo/"):
        for _ in range(3):
            assert refusal(server, "/echo/") == (1013, "503 Service Unavailable")
        foreign = BROWSER.replace("//localhost", "//evil.example")
        with server.wire() as wire:
            assert ask(wire, "/echo/", foreign).startswith("HTTP/1.1 403 ")
        with server.wire() as wire:
            ask(wire, "/echo/", V1)
            assert wire.frame() == (1, b'{"bye":{"after":10.0}}')
        assert server.refused("/echo/").status == 503
    wait_until(lambda: json.loads(server.get("/places/"))[0] == 0, "the permit to be released")
    with server.connect("/echo/") as websocket:
        websocket.send("open")
        assert websocket.recv(timeout=TIMEOUT) == "open"


@pytest.mark.parametrize("setting", ["SOCKETS", "SOCKETS_PER_ADDRESS", "SOCKETS_PER_USER"])
def test_v1_limits(start_server: StartServer, setting: str) -> None:
    """Each limit tells a client of wsmux.v1 when to return, and counts it no longer."""
    settings = {f"WEBSOCKET_MAX_{setting}": 1}
    server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    cookie = server.sign_in("ann")
    headers = f"{V1}Cookie: {cookie}\r\n"
    with server.connect("/echo/", additional_headers={"Cookie": cookie}):
        for _ in range(2):
            with server.wire() as wire:
                assert ask(wire, "/echo/", headers).startswith("HTTP/1.1 101 ")
                assert wire.frame() == (1, b'{"bye":{"after":10.0}}')
                assert wire.closed()[0] == 1013
    wait_until(lambda: json.loads(server.get("/places/"))[0] == 0, "the permit to be released")
    with server.upgraded("/echo/", headers) as wire:
        assert b"welcome" in wire.frame()[1]


def test_debug(start_server: StartServer) -> None:
    """With DEBUG, the reason shows the error that the view has raised before the 101."""
    server = start_server("own", env={"TEST_DEBUG": "1"})
    assert refusal(server, "/crash-before/", V1) == (1011, "500 ValueError: it broke before")
    assert refusal(server, "/missing/", V1)[0] == 4404


class TestLog:
    """Each refused handshake has a line in the log, and a flood of them has few."""

    @pytest.mark.parametrize(
        ("path", "line"),
        [
            ("/nowhere/", r"answered with 404 Not Found: '/nowhere/'\n"),
            ("/page/", r"answered with 200 OK: '/page/': .*does it lack @websocket\?"),
            ("/echo", r"answered with 301 Moved Permanently: '/echo': .*APPEND_SLASH"),
            ("/private/", r"answered with 302 Found: '/private/'\n"),
        ],
    )
    def test_line(self, front: Server, path: str, line: str) -> None:
        """The line says what to look for."""
        front.refused(path)
        front.wait_for_log(rf"WebSocket handshake {line}")

    def test_closed(self, closing: Server) -> None:
        """The line says that the client got a close code."""
        refusal(closing, "/denied/")
        closing.wait_for_log(r"answered with 403 Forbidden: '/denied/', as close code 4403\n")

    @pytest.mark.parametrize(
        ("path", "headers"),
        [
            ("/nowhere/", {}),
            ("/denied/", {}),
            ("/echo/", {"Host": "evil.example"}),
            ("/echo/", {"Origin": "https://evil.example"}),
            ("/bearer/", {"Authorization": "Bearer guess"}),
        ],
    )
    def test_flood(self, start_server: StartServer, path: str, headers: dict[str, str]) -> None:
        """A flood has a few lines of each kind, none of them long."""
        settings = {"ALLOWED_HOSTS": ["127.0.0.1"]}
        server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
        server.get("/")
        start = len(server.log)
        long = "x" * 3000
        for _ in range(120):
            assert server.refused(f"{path}?{long}", headers).status in (400, 401, 403, 404)
        for _ in range(30):
            server.refused(f"/{long}/", headers)
        server.refused("/status/418/")
        server.wait_for_log("answered with 418")
        lines = server.log[start:].splitlines()
        assert len([line for line in lines if "handshake" in line]) < 80
        assert len([line for line in lines if "Traceback" in line]) <= 21
        assert len(lines) < 400
        assert max(map(len, lines)) < 1000
        assert not re.search("x{300}", server.log[start:])


#: Open a socket for each path; call back with the close codes.
OPEN_EACH = """
const [paths, done] = arguments;
Promise.all(paths.map((path) => new Promise((closed) => {
    const socket = new WebSocket("ws://" + location.host + path);
    socket.onclose = (event) => closed(event.code);
}))).then(done);
"""

#: What a page reads if refusals are closed.
READ = {
    "/private/": 4401,
    "/denied/": 4403,
    "/nowhere/": 4404,
    "/status/429/": 1013,
    "/status/503/": 1013,
}


def test_chromium(start_server: StartServer, tmp_path: Path) -> None:
    """With the setting, a page reads why it was refused; without, 1006."""
    need("chromium", "chromedriver")
    window = new_window(tmp_path)
    try:
        window.set_script_timeout(TIMEOUT)
        for mode, codes in (("close", list(READ.values())), ("http", [1006] * len(READ))):
            settings = {"WEBSOCKET_REFUSALS": mode, "ALLOWED_HOSTS": ["127.0.0.1"]}
            server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
            window.get(f"http://127.0.0.1:{server.port}/only-a-page/")
            assert window.execute_async_script(OPEN_EACH, list(READ)) == codes
    finally:
        window.quit()

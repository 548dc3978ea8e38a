"""Limits on the number of sockets and messages: on the wire, under every server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from django.test import override_settings

from django_wsmux import conf
from tests.functional.test_limits import counted
from tests.gauges import reported, settled, wait_until
from tests.support import SERVERS, Answer, Server, frame, handshake

StartServer = Callable[..., Server]

CAPS = {
    "WEBSOCKET_MAX_SOCKETS": 6,
    "WEBSOCKET_MAX_SOCKETS_PER_ADDRESS": 3,
    "WEBSOCKET_MAX_SOCKETS_PER_USER": 2,
    "WEBSOCKET_MAX_MESSAGES_PER_SECOND": 20,
    "WEBSOCKET_TRUSTED_PROXIES": 1,
    "WEBSOCKET_PING_INTERVAL": 1,
}


@pytest.fixture(scope="module", params=SERVERS)
def capped(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A server of each kind with low limits."""
    return start_lasting_server(request.param, env={"TEST_SETTINGS": json.dumps(CAPS)})


@pytest.fixture(autouse=True)
def none_left(request: pytest.FixtureRequest) -> object:
    """After each test, all permits have been released."""
    yield
    if "capped" in request.fixturenames:
        assert_free(request.getfixturevalue("capped"))


def assert_free(server: Server) -> None:
    """Wait until all sockets are closed; then assert that all permits are released."""
    settled(server)
    # The view of a handshake that was not accepted may still be returning, which nothing counts.
    wait_until(lambda: json.loads(server.get("/places/")) == [0, {}, {}], "no permit held")


def client(address: str) -> str:
    """Return the header line in which a proxy names its client."""
    return f"X-Forwarded-For: {address}\r\n"


def turned_away(server: Server, path: str = "/echo/", **headers: str) -> Answer:
    """Return the response of a refused handshake."""
    return server.refused(path, {name.replace("_", "-"): value for name, value in headers.items()})


class TestSockets:
    """``WEBSOCKET_MAX_SOCKETS``."""

    def test_refused_with_503(self, capped: Server) -> None:
        """A socket over the limit gets Retry-After; pages and open sockets still work."""
        before = counted(capped, "refused_sockets")
        with ExitStack() as stack:
            wires = [
                stack.enter_context(capped.upgraded("/echo/", client(f"192.0.2.{number}")))
                for number in range(6)
            ]
            answer = turned_away(capped, X_Forwarded_For="192.0.2.99")
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
            assert answer.text == "This server has reached its limit of WebSockets."
            assert counted(capped, "refused_sockets") == before + 1
            capped.wait_for_log(
                r"refused with 503 .*: '/echo/': WEBSOCKET_MAX_SOCKETS \(6\) is reached"
            )
            for wire in wires:
                wire.send(frame(0x81, b"still here"))
                assert wire.frame() == (1, b"still here")
            assert capped.get("/").startswith("plain")
            wires[0].send(frame(0x88, b"\x03\xe8"))
            assert wires[0].closed() == (1000, "")
            wait_until(lambda: json.loads(capped.get("/places/"))[0] == 5, "a free permit")
            with capped.upgraded("/echo/", client("192.0.2.99")):
                pass

    def test_handshakes_under_way_count(self, capped: Server) -> None:
        """Handshakes count while their views decide, and later ones do not overtake them."""
        key = uuid4().hex
        with ExitStack() as stack:
            wires = [stack.enter_context(capped.wire()) for _ in range(6)]
            for number, wire in enumerate(wires):
                wire.send(handshake(f"/undecided/{key}{number}/", client(f"192.0.2.{number}")))
            for number in range(6):
                assert reported(capped, f"{key}{number}") == "waiting"
            assert turned_away(capped, X_Forwarded_For="192.0.2.99").status == 503
            for number, wire in enumerate(wires):
                capped.get(f"/let-go/{key}{number}/")
                assert wire.head().startswith("HTTP/1.1 101 ")
                assert wire.frame() == (1, b"yes")

    def test_flood(self, capped: Server) -> None:
        """Six of 300 handshakes succeed; the log has a few lines about the others."""
        before = counted(capped, "refused_sockets")
        with ExitStack() as stack:
            heads = []
            for number in range(300):
                wire = stack.enter_context(capped.wire())
                wire.send(handshake("/echo/", client(f"198.51.100.{number % 250}")))
                heads.append(wire.head().split()[1])
            assert heads == ["101"] * 6 + ["503"] * 294
        assert counted(capped, "refused_sockets") == before + 294
        assert 0 < capped.log.count("WEBSOCKET_MAX_SOCKETS (6)") < 50
        assert "Service Unavailable: /echo/" not in capped.log


class TestAddress:
    """``WEBSOCKET_MAX_SOCKETS_PER_ADDRESS``."""

    @pytest.mark.parametrize(
        "addresses",
        [
            ["192.0.2.1"] * 4,
            ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:DB8:0:1:0::3", "[2001:db8:0:1::4]:5"],
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1:4711", "::ffff:c000:201"],
            ["1.1.1.1, 192.0.2.1", "2.2.2.2,192.0.2.1", "garbage, 192.0.2.1", ",192.0.2.1"],
        ],
        ids=["same", "network", "spelling", "forged"],
    )
    def test_refused_with_429(self, capped: Server, addresses: list[str]) -> None:
        """The fourth socket of an address is refused in any spelling; others are served."""
        before = counted(capped, "refused_address")
        with ExitStack() as stack:
            for address in addresses[:3]:
                stack.enter_context(capped.upgraded("/echo/", client(address)))
            answer = turned_away(capped, X_Forwarded_For=addresses[3])
            assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
            with capped.upgraded("/echo/", client("192.0.2.2")) as other:
                other.send(frame(0x81, b"x"))
                assert other.frame() == (1, b"x")
            assert counted(capped, "refused_address") == before + 1

    def test_comes_before_django(self, capped: Server) -> None:
        """The refusal comes before any middleware, and so without a query."""
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(capped.upgraded("/echo/", client("192.0.2.1")))
            answer = turned_away(capped, X_Forwarded_For="192.0.2.1", Origin="https://evil.example")
            assert answer.status == 429
            assert "X-Mixed-Case" not in answer.headers

    @pytest.mark.parametrize("forwarded", [None, "", "unknown", "unix:"])
    def test_proxy_without_an_address(self, capped: Server, forwarded: str | None) -> None:
        """The proxy's own address counts, and the log names the setting that does not match."""
        more = "" if forwarded is None else client(forwarded)
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(capped.upgraded("/echo/", more))
            assert json.loads(capped.get("/places/"))[1] == {"127.0.0.1": 3}
        capped.wait_for_log("X-Forwarded-For is '.*' and WEBSOCKET_TRUSTED_PROXIES is 1")


class TestUser:
    """``WEBSOCKET_MAX_SOCKETS_PER_USER``."""

    @pytest.mark.parametrize("path", ["/echo/", "/plain-echo/", "/meta-echo/", "/events/echo/"])
    def test_refused_with_429(self, capped: Server, path: str) -> None:
        """The third socket of a user is refused, in any kind of view; others are served."""
        before = counted(capped, "refused_user")
        ann, bob = capped.sign_in("ann"), capped.sign_in("bob")
        with ExitStack() as stack:
            for _ in range(2):
                wire = stack.enter_context(capped.upgraded(path, f"Cookie: {ann}\r\n"))
                # A view without a decorator accepts when it first receives.
                wire.send(frame(0x81, b"x"))
                assert wire.frame() == (1, b"x")
            answer = turned_away(capped, path, Cookie=ann)
            assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
            assert answer.text == "Too many WebSockets of this user."
            for more in (f"Cookie: {bob}\r\n", ""):
                with capped.upgraded(path, client("192.0.2.7") + more) as other:
                    other.send(frame(0x81, b"x"))
                    assert other.frame() == (1, b"x")
            assert counted(capped, "refused_user") == before + 1
        assert_free(capped)
        with capped.upgraded(path, f"Cookie: {ann}\r\n"):
            pass
        assert "Too Many Requests: /" not in capped.log


ENDS: dict[str, tuple[str, str, bytes]] = {
    "closed": ("/echo/", "", frame(0x88, b"\x03\xe8")),
    "closed by the view": ("/closing/4000/x/", "", b""),
    "view returned": ("/stacked/", "", b""),
    "view crashed": ("/crash/", "", frame(0x81, b"x")),
    "view exited": ("/exiting/", "", frame(0x81, b"x")),
    "event view crashed": ("/events/report/caps/", "", frame(0x81, b"crash")),
    "broken protocol": ("/echo/", "", b"\x81\x00"),
    "lean": ("/events/lean-echo/", "", b"\x81\x00"),
    "inside the request": ("/plain-echo/", "", frame(0x81, b"x") + frame(0x88, b"")),
    "late response": ("/late-status/503/", "", b""),
    "with the handshake": ("/echo/", "", frame(0x81, b"x") + frame(0x88, b"")),
    "not found": ("/nowhere/", "", b""),
    "redirected": ("/private/", "", b""),
    "raised": ("/crash-before/", "", b""),
    "foreign": ("/echo/", "Origin: https://evil.example\r\n", b""),
    "refused by an event view": ("/events/report/caps/?refuse", "", b""),
    "refused by middleware": ("/echo/", "X-Refuse-Late: 1\r\n", b""),
    "refused after an event view": ("/events/echo/", "X-Refuse-Late: 1\r\n", b""),
}


class TestExact:
    """A permit is released exactly once, however a socket ends."""

    @pytest.mark.parametrize("how", ENDS)
    def test_ends(self, capped: Server, how: str) -> None:
        """A user with a limit of two opens three sockets one after another."""
        path, more, data = ENDS[how]
        cookie = f"Cookie: {capped.sign_in(how.replace(' ', '-'))}\r\n"
        statuses = set()
        for _ in range(3):
            with capped.wire() as wire:
                wire.send(handshake(path, client("192.0.2.1") + cookie + more) + data)
                statuses.add(wire.head().split()[1])
                if data:
                    wire.read(2)
            assert_free(capped)
        assert len(statuses) == 1
        assert "429" not in statuses

    def test_vanished(self, capped: Server) -> None:
        """Peers that reset the connection release it: before, with and after the 101."""
        key = uuid4().hex
        for number in range(3):
            with capped.upgraded("/echo/") as wire:
                wire.reset()
            with capped.wire() as wire:
                wire.send(handshake(f"/undecided/{key}{number}/", client("192.0.2.1")))
                assert reported(capped, f"{key}{number}") == "waiting"
                wire.reset()
            try:
                # The server may notice the first reset later than the second handshake.
                wait_until(
                    lambda: json.loads(capped.get("/places/"))[1] == {"192.0.2.1": 1},
                    "one permit held",
                )
            finally:
                capped.get(f"/let-go/{key}{number}/")
            assert_free(capped)

    def test_silent(self, capped: Server) -> None:
        """Vanished peers count until a ping finds them."""
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(capped.upgraded("/silent/"))
            assert turned_away(capped).status == 429

    def test_many_at_once(self, capped: Server) -> None:
        """The count stays correct when sockets come and go concurrently."""

        def come_and_go(address: str) -> None:
            for _ in range(20):
                with capped.wire() as wire:
                    wire.send(handshake("/echo/", client(address)) + frame(0x88, b""))
                    wire.head()

        threads = [
            threading.Thread(target=come_and_go, args=(f"192.0.2.{number}",)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class TestMessages:
    """``WEBSOCKET_MAX_MESSAGES_PER_SECOND``, with bursts of twice as many."""

    @pytest.mark.parametrize(
        "unit",
        [
            frame(0x81, b"x"),
            frame(0x89, b"x"),
            frame(0x8A, b""),
            frame(0x01, b"") + frame(0x80, b""),
        ],
        ids=["messages", "pings", "pongs", "fragmented"],
    )
    @pytest.mark.parametrize("path", ["/echo/", "/events/echo/"])
    def test_closed_with_1013(self, capped: Server, path: str, unit: bytes) -> None:
        """A socket that sends more is closed, whatever its frames; others are served."""
        before = counted(capped, "too_many_messages")
        with capped.upgraded(path) as wire, capped.upgraded("/echo/") as other:
            # Includes the answer to the server's close frame, for which it would wait otherwise.
            wire.send(unit * 500 + frame(0x88, b"\x03\xe8"))
            assert wire.closed() == (1013, "more than 20 messages a second")
            other.send(frame(0x81, b"x") * 30)
            assert [other.frame() for _ in range(30)] == [(1, b"x")] * 30
        assert counted(capped, "too_many_messages") == before + 1

    def test_returns(self, capped: Server) -> None:
        """A client with wsmux.v1 is told when to return; it is not sent away for good."""
        with capped.upgraded("/silent/", "Sec-WebSocket-Protocol: wsmux.v1\r\n") as wire:
            wire.send(frame(0x81, b"x") * 500 + frame(0x88, b"\x03\xe8"))
            frames = [wire.frame()]
            while frames[-1][0] != 8:
                frames.append(wire.frame())
            *_, (_, bye), (_, close) = frames
            assert json.loads(bye)["bye"]["after"] >= 0
            assert close[:2] == (1013).to_bytes(2, "big")

    def test_fragments(self, capped: Server) -> None:
        """Sixteen fragments count as one message: a browser's fragments pass, tiny ones do not."""
        with capped.upgraded("/echo/") as wire:
            wire.send(frame(0x01, b"x" * 999) + frame(0x00, b"x") * 200 + frame(0x80, b"end"))
            assert wire.frame() == (1, b"x" * 1199 + b"end")
            wire.send(frame(0x01, b"") + frame(0x00, b"") * 3000)
            assert wire.closed()[0] == 1013


REFUSED_429 = b"\x03\xf5429 Too Many Requests"


def test_server_that_has_sent_the_101(start_server: StartServer) -> None:
    """gevent-websocket's own server closes with 1013, and with the status as reason."""
    settings = {**CAPS, "WEBSOCKET_MAX_SOCKETS": 4}
    server = start_server("direct", env={"TEST_SETTINGS": json.dumps(settings)})
    cookie = f"Cookie: {server.sign_in('ann')}\r\n"
    with ExitStack() as stack:
        for path in ("/echo/", "/plain-echo/"):
            stack.enter_context(server.upgraded(path, cookie))
        for path in ("/echo/", "/plain-echo/", "/events/echo/"):
            with server.upgraded(path, client("192.0.2.1") + cookie) as wire:
                wire.send(frame(0x81, b"x"))
                assert wire.frame() == (8, REFUSED_429)
        stack.enter_context(server.upgraded("/echo/"))
        with server.upgraded("/echo/") as wire:
            assert wire.frame() == (8, REFUSED_429)
        stack.enter_context(server.upgraded("/echo/", client("192.0.2.1")))
        with server.upgraded("/echo/", client("192.0.2.2")) as wire:
            assert wire.frame() == (8, b"\x03\xf5503 Service Unavailable")
    assert_free(server)


def test_unix_socket(start_server: StartServer, tmp_path: Path) -> None:
    """Peers of a unix socket have no address: that limit does not apply, and the log says so."""
    path = f"{tmp_path}/socket"
    settings = {"WEBSOCKET_MAX_SOCKETS_PER_ADDRESS": 1}
    server = start_server("own", "-b", f"unix:{path}", env={"TEST_SETTINGS": json.dumps(settings)})
    with ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(path)
            sock.sendall(handshake("/echo/"))
            assert sock.recv(100).startswith(b"HTTP/1.1 101 ")
    server.wait_for_log("WEBSOCKET_TRUSTED_PROXIES is 0: .* unknown, so it is not limited")


@pytest.mark.parametrize(
    "name", ["", "WEBSOCKET_MAX_SOCKETS_PER_ADDRESS", "WEBSOCKET_MAX_SOCKETS_PER_USER"]
)
def test_off(name: str) -> None:
    """Without limits, nothing is counted."""
    with override_settings(**({name: 1} if name else {})):
        assert conf.has_limits() is bool(name)


#: What is refused, with which headers, and the status.
REFUSALS = {
    "another origin": ("/echo/", {"Origin": "https://evil.example"}, 403),
    "a bad version": ("/echo/", {"Sec-WebSocket-Version": "12"}, 426),
    "too many": ("/echo/", {"X-Forwarded-For": "192.0.2.1"}, 429),
    "a function view": ("/status/403/", {}, 403),
    "an event view": ("/events/report/caps/?refuse", {}, 418),
    "denied": ("/denied/", {}, 403),
    "no such socket": ("/nowhere/", {}, 404),
    "a redirect": ("/private/", {}, 302),
    "an error": ("/crash-before/", {}, 500),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refusals_end(capped: Server, what: str) -> None:
    """Each refusal has a length: some clients wait for the end of the connection otherwise."""
    path, headers, status = REFUSALS[what]
    with ExitStack() as stack:
        if what == "too many":
            for _ in range(3):
                stack.enter_context(capped.upgraded("/echo/", client("192.0.2.1")))
        answer = turned_away(capped, path, **headers)
        assert answer.status == status
        assert int(answer.headers["Content-Length"]) == len(answer.text.encode())

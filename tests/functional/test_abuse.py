"""Attacks and their results; ``docs/security.rst`` has the table.

Other modules test bombs, absurd lengths, floods of frames and slow handshakes
(``test_faults.py``), and floods of sockets and messages (``test_caps.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.functional.test_conversation import closing
from tests.functional.test_limits import counted
from tests.gauges import unharmed
from tests.support import KEY, TIMEOUT, Answer, Server, frame, handshake

StartServer = Callable[..., Server]

#: Text that an attacker would like to see in a log or a terminal.
FORGED = "\r\nFORGED root logged in \x1b[31m"


@contextmanager
def others_served(server: Server) -> Iterator[None]:
    """Assert that an open socket still works after the block, and nothing is left behind."""
    with unharmed(server), server.upgraded("/echo/") as healthy:
        yield
        healthy.send(frame(0x81, b"healthy"))
        assert healthy.frame() == (1, b"healthy")


def answer_to(server: Server, raw: bytes) -> Answer:
    """Return the response to these bytes, without anything after it."""
    with server.wire() as wire:
        wire.send(raw)
        return wire.response()


class TestCrossSite:
    """RFC 6455 section 10.2: a page of another site that would use the visitor's cookies."""

    @staticmethod
    def hostile(port: int) -> list[bytes]:
        """Return handshakes with headers that no page of http://127.0.0.1:port sends."""
        own = f"127.0.0.1:{port}"
        origins = [
            "null",
            "",
            "https://evil.example",
            "http://127.0.0.1",
            f"http://127.0.0.1:{port + 1}",
            f"http://127.0.0.2:{port}",
            f"http://{own}.evil.example",
            f"http://evil{own}",
            f"http://{own}@evil.example",
            f"http://evil.example@{own}",
            f"http://evil.example/{own}",
            f"http://evil.example?{own}",
            f"http://evil.example#{own}",
            f"http://evil.example\\{own}",
            f"http://{own}/",
            f"ftp://{own}",
            f"//{own}",
            own,
            f"http://127.0.0.1.:{port}",
            f"http://127.1:{port}",
            f"http://2130706433:{port}",
            f"http://[::ffff:127.0.0.1]:{port}",
            # Similar to WEBSOCKET_ALLOWED_ORIGINS: https://friend.example,
            # https://*.friends.example
            "http://friend.example",
            "https://friend.example:444",
            "https://friend.example.evil.example",
            "https://evilfriend.example",
            "https://friend.example.",
            "https://friend.example@evil.example",
            "https://friends.example",
            "https://evilfriends.example",
            "https://a.friends.example.evil.example",
            "https://evil.example/.friends.example",
            "https://evil.example,a.friends.example",
            "https://evil.example%2e.friends.example",
            "https://*.friends.example",
            "*",
            "https://*",
        ]
        headers = [f"Origin: {origin}\r\n" for origin in origins]
        headers += [
            f"Origin: http://{own}\r\nOrigin: https://evil.example\r\n",
            f"Origin: https://evil.example\r\nOrigin: http://{own}\r\n",
            "Origin: https://evil.example\r\nOrigin: a.friends.example\r\n",
            "Origin: https://friend.example\r\nOrigin: null\r\n",
        ]
        return [
            handshake("/echo/", header).replace(b"localhost", own.encode()) for header in headers
        ]

    def test_refused(self, front: Server) -> None:
        """Each gets a 403 before any middleware runs, and is counted."""
        before = counted(front, "refused_origin")
        raws = self.hostile(front.port)
        with others_served(front):
            for raw in raws:
                answer = answer_to(front, raw)
                assert (answer.status, answer.text) == (403, "Origin not allowed.\n"), raw
                assert "X-Mixed-Case" not in answer.headers
        assert counted(front, "refused_origin") == before + len(raws)

    def test_closed(self, direct: Server) -> None:
        """After an early 101, no message is accepted or sent: the socket is closed with 1008."""
        with others_served(direct):
            for raw in self.hostile(direct.port):
                with direct.wire() as wire:
                    wire.send(raw + frame(0x81, b"x"))
                    assert wire.head().startswith("HTTP/1.1 101 ")
                    assert wire.frame() == (8, b"\x03\xf0403 Forbidden"), raw

    @pytest.mark.parametrize(
        "origin", ["http://127.0.0.1:{}", "HTTP://127.0.0.1:{}", "https://FRIEND.example:443"]
    )
    def test_own(self, front: Server, origin: str) -> None:
        """The site's own pages and allowed origins connect, in any case."""
        with front.connect("/echo/", origin=origin.format(front.port)):
            pass


@pytest.fixture(scope="module")
def proxied(start_lasting_server: StartServer) -> Server:
    """A server that trusts its proxy, and knows the names of its site."""
    settings = {
        "ALLOWED_HOSTS": ["site.example"],
        "USE_X_FORWARDED_HOST": True,
        "USE_X_FORWARDED_PORT": True,
        "SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"],
        "CSRF_TRUSTED_ORIGINS": ["https://*.trusted.example"],
        "WEBSOCKET_REQUIRE_ORIGIN": True,
        "DEBUG": True,
    }
    return start_lasting_server("own", env={"TEST_SETTINGS": json.dumps(settings)})


class TestForgedHosts:
    """The name of the site: ``ALLOWED_HOSTS``, and headers of a trusted proxy only."""

    def test_forwarded_host_is_not_believed(self, front: Server) -> None:
        """Without ``USE_X_FORWARDED_HOST``, a client cannot set the name of the site."""
        headers = {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}
        assert front.refused("/echo/", headers).status == 403
        headers = {"Origin": "http://localhost:81", "Host": "localhost", "X-Forwarded-Port": "81"}
        assert front.refused("/echo/", headers).status == 403

    @pytest.mark.parametrize("host", ["evil.example", "site.example.evil.example", "site.example/"])
    def test_allowed_hosts(self, proxied: Server, host: str) -> None:
        """A host that is not allowed gets a 400, even if it equals the origin, and is counted."""
        before = counted(proxied, "refused_host", "site.example")
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert proxied.refused("/echo/", headers).status == 400
        assert counted(proxied, "refused_host", "site.example") == before + 1

    @pytest.mark.parametrize(
        ("origin", "more"),
        [
            ("https://site.example", {}),
            ("https://site.example", {"Port": "443"}),
            ("https://site.example:8443", {"Port": "8443"}),
            ("https://site.example:8443", {"Host": "site.example:8443"}),
            ("https://site.example:8443", {"Host": "site.example:8443", "Port": "8000"}),
            ("http://site.example", {"Proto": "http"}),
            ("https://a.trusted.example", {}),
        ],
    )
    def test_trusted_proxy(self, proxied: Server, origin: str, more: dict[str, str]) -> None:
        """Host, port and scheme come from the trusted proxy, as for CSRF."""
        with proxied.upgraded("/echo/", forwarded(origin, more)):
            pass

    @pytest.mark.parametrize(
        ("origin", "more"),
        [
            ("http://site.example", {}),
            ("https://site.example:8443", {}),
            ("https://site.example", {"Port": "8443"}),
            ("https://site.example:8443", {"Port": "8444"}),
            ("https://trusted.example", {}),
            ("http://a.trusted.example", {}),
            (None, {}),
        ],
    )
    def test_foreign(self, proxied: Server, origin: str | None, more: dict[str, str]) -> None:
        """An origin with another scheme or port is refused; ``DEBUG`` names the setting."""
        answer = answer_to(proxied, handshake("/echo/", forwarded(origin, more)))
        assert answer.status == 403
        assert "WEBSOCKET_" in answer.text

    def test_is_logged(self, proxied: Server) -> None:
        """The log shows both origins and what to change."""
        more = {"Host": "site.example:8443"}
        answer_to(proxied, handshake("/echo/", forwarded("https://evil.example", more)))
        proxied.wait_for_log(
            r"refused with 403 Forbidden: '/echo/': origin 'https://evil\.example' is not this "
            r"site's, 'https://site\.example:8443'; if it is yours.*WEBSOCKET_ALLOWED_ORIGINS"
        )
        answer_to(proxied, handshake("/echo/", forwarded("http://site.example", {})))
        proxied.wait_for_log(
            r"origin 'http://site\.example' is not this site's, 'https://site\.example'; only "
            r"the scheme differs: .*SECURE_PROXY_SSL_HEADER"
        )
        proxied.refused("/logged/", {"Sec-WebSocket-Key": "x"})
        proxied.wait_for_log(r"refused with 400 Bad Request: '/logged/': Sec-WebSocket-Key")


def forwarded(origin: str | None, more: dict[str, str]) -> str:
    """Return the headers of a proxy, as lines."""
    headers = {"Host": "site.example", "Proto": "https", **more}
    lines = [f"X-Forwarded-{name}: {value}\r\n" for name, value in headers.items()]
    return "".join(lines) + (f"Origin: {origin}\r\n" if origin is not None else "")


LONG = "x" * 70_000

OVERSIZED = {
    "path": handshake(f"/{LONG}/"),
    "query": handshake(f"/echo/?{LONG}"),
    "header": handshake("/echo/", f"X-Long: {LONG}\r\n"),
    "header's name": handshake("/echo/", f"{LONG}: x\r\n"),
    "cookie": handshake("/echo/", f"Cookie: a={LONG}\r\n"),
    "origin": handshake("/echo/", f"Origin: https://{LONG}\r\n"),
    "key": handshake("/echo/").replace(KEY.encode(), LONG.encode()),
    "subprotocols": handshake("/echo/", f"Sec-WebSocket-Protocol: {'x, ' * 25_000}x\r\n"),
    "extensions": handshake("/echo/", f"Sec-WebSocket-Extensions: {'x, ' * 25_000}x\r\n"),
    "number of headers": handshake("/echo/", "".join(f"X-{n}: x\r\n" for n in range(1000))),
}


class TestOversized:
    """Requests, values and frames of excessive size."""

    def test_requests(self, front: Server) -> None:
        """The server refuses an oversized request before the package sees it."""
        with others_served(front):
            for what, raw in OVERSIZED.items():
                assert refused_or_cut(front, raw), what

    def test_values(self, front: Server) -> None:
        """Headers within the server's limits are handled; a long origin is truncated in the log."""
        names = ", ".join(["chat.v9"] * 700 + ["chat.v1"])
        with front.upgraded("/subprotocol/", f"Sec-WebSocket-Protocol: {names}\r\n") as wire:
            assert wire.frame() == (1, b"chat.v1")
        extensions = ", ".join(["permessage-deflate; x=1"] * 300)
        with front.upgraded("/echo/", f"Sec-WebSocket-Extensions: {extensions}\r\n"):
            pass
        logged = len(front.log)
        origin = "https://" + "o" * 7000
        assert front.refused("/echo/", {"Origin": origin}).status == 403
        assert "o" * 300 not in front.log[logged:]

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (frame(0x82, bytes(2**20 + 1)), 1009),
            (frame(0x02, bytes(2**20)) + frame(0x80, b"x"), 1009),
            (frame(0x88, b"\x03\xe8" + b"r" * 124), 1002),
            (frame(0x89, bytes(126)), 1002),
        ],
        ids=["message", "fragments", "close reason", "ping"],
    )
    def test_frames(self, front: Server, data: bytes, code: int) -> None:
        """An oversized frame is refused at its header (RFC 6455 sections 5.5 and 7.4.1)."""
        with others_served(front), front.upgraded("/echo/") as wire:
            wire.send(data)
            assert wire.closed()[0] == code


def refused_or_cut(server: Server, raw: bytes) -> bool:
    """Return whether the server answered with an error, or reset the connection."""
    with server.wire() as wire:
        try:
            wire.send(raw)
            status = wire.head().split()[1:2]
        except ConnectionError:
            return True
        return status != ["101"] and (not status or status[0].startswith("4"))


BODY = b"GET /only-a-page/?smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"

SMUGGLED = {
    "two lengths, the first of them 0": handshake(
        "/echo/", f"Content-Length: 0\r\nContent-Length: {len(BODY)}\r\n"
    )
    + BODY,
    "body": handshake("/echo/", f"Content-Length: {len(BODY)}\r\n") + BODY,
    "chunked": handshake("/echo/", "Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
    "both": handshake("/echo/", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")
    + b"0\r\n\r\n",
    "identity": handshake("/echo/", "Transfer-Encoding: identity\r\n"),
    "unknown coding": handshake("/echo/", "Transfer-Encoding: xchunked\r\n"),
    "negative": handshake("/echo/", "Content-Length: -1\r\n"),
    "signed": handshake("/echo/", "Content-Length: +5\r\n") + b"hello",
    "hexadecimal": handshake("/echo/", "Content-Length: 0x5\r\n") + b"hello",
    "two keys": handshake("/echo/", f"Sec-WebSocket-Key: {KEY}\r\n"),
    "two versions": handshake("/echo/", "Sec-WebSocket-Version: 13\r\n"),
    "two hosts": handshake("/echo/", "Host: evil.example\r\n"),
    "bare upgrade": b"GET /echo/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.0": handshake("/echo/").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/2.0": handshake("/echo/").replace(b"HTTP/1.1", b"HTTP/2.0"),
    "POST": handshake("/echo/").replace(b"GET", b"POST"),
    "no words": handshake("/echo/").replace(b"GET /echo/ HTTP/1.1", b"\x16\x03\x01\x02\x00"),
}

#: Only gunicorn's parser refuses these. Those of pywsgi and Python accept them, and treat a
#: carriage return as the end of a line: ``docs/security.rst`` describes the consequences.
MALFORMED = {
    "folded": "X-A: b\r\n  Origin: x\r\n",
    "folded origin": "Origin: https://evil.example\r\n .friends.example\r\n",
    "nul": "X-A: b\0c\r\n",
    "carriage return": "X-A: b\rOrigin: https://evil.example\r\n",
    "escape": "X-A: \x1b[31m\r\n",
    "no colon": "garbage\r\n",
    "space before the colon": "Transfer-Encoding : chunked\r\n",
    "two lengths": "Content-Length: 0\r\nContent-Length: 5\r\n",
}


class TestSmuggling:
    """Requests that two parsers may read differently."""

    def test_refused(self, front: Server) -> None:
        """No socket opens, and nothing behind the handshake is answered with 200."""
        for what, raw in SMUGGLED.items():
            with front.wire() as wire:
                wire.send(raw)
                wire.sock.shutdown(1)
                answers = wire.rest()
            assert b" 101 " not in answers, what
            assert b" 200 " not in answers, what
        with others_served(front):
            pass

    def test_malformed(self, front: Server) -> None:
        """A malformed header is refused, or one socket opens and what follows is read as frames."""
        for what, header in MALFORMED.items():
            with front.wire() as wire:
                wire.send(handshake("/echo/", header) + BODY)
                head = wire.head()
                if " 101 " in head:
                    # "G" has reserved bits set (RFC 6455 section 5.2).
                    assert wire.closed()[0] == 1002, what
                else:
                    assert re.match(r"HTTP/1\.1 4\d\d ", head), what
        with others_served(front):
            pass

    def test_pipelined(self, front: Server) -> None:
        """A request behind an accepted handshake is not read as a request."""
        with front.wire() as wire:
            wire.send(handshake("/echo/") + BODY)
            assert wire.head().startswith("HTTP/1.1 101 ")
            assert wire.closed()[0] == 1002

    def test_underscores(self, front: Server) -> None:
        """A header with underscores does not pass for the one that a proxy sets."""
        raw = handshake("/environ/", "X_Forwarded_For: 6.6.6.6\r\n").replace(b"websocket\r", b"x\r")
        with front.wire() as wire:
            wire.send(raw.replace(b"Connection: Upgrade", b"Connection: close"))
            assert "HTTP_X_FORWARDED_FOR" not in json.loads(wire.response().text)["keys"]


class TestSplitting:
    """A view that puts values of the client into the 101."""

    @pytest.mark.parametrize("name", ["cookie", "header", "subprotocol"])
    @pytest.mark.parametrize("value", ["x\r\nX-Evil: 1", "x\nX-Evil: 1", "x\rX-Evil: 1", "x\0y"])
    def test_line_breaks(self, front: Server, name: str, value: str) -> None:
        """No header is added, whether the handshake is accepted or refused."""
        path = f"/mirror/?{name}={quote(value)}"
        with front.wire() as wire:
            wire.send(handshake(path, "Sec-WebSocket-Protocol: chat\r\n"))
            head = wire.head()
        assert re.match(r"HTTP/1\.1 (101|500) ", head)
        assert "\nX-Evil" not in head
        assert "\rX-Evil" not in head
        assert "\0" not in head

    @pytest.mark.parametrize("offered", ["a\0", "\x1b[31m", "a b", "\xe9"])
    def test_offered_subprotocol(self, front: Server, offered: str) -> None:
        """A view that echoes the offered subprotocol does not agree to an invalid token."""
        with front.wire() as wire:
            raw = handshake("/mirror/?offered", "Sec-WebSocket-Protocol: ~\r\n")
            wire.send(raw.replace(b"~", offered.encode("latin-1")))
            head = wire.head()
            if " 101 " in head:
                assert "Sec-WebSocket-Protocol" not in head
                assert wire.frame() == (1, b"None")
            else:
                assert head.startswith("HTTP/1.1 400 ")


class TestLogs:
    """Log injection, also into the terminal that shows the log."""

    def test_is_escaped(self, front: Server) -> None:
        """Path, origin, subprotocol, forwarded address and reason cannot forge log lines."""
        logged = len(front.log)
        forged = quote(FORGED)
        front.refused(f"/{forged}/")
        front.refused(f"/{forged}/", {"Sec-WebSocket-Key": "x"})
        front.refused(f"/echo/{forged}/?{forged}", {"Origin": "https://evil.example"})
        for name in ("Origin", "Sec-WebSocket-Protocol", "X-Forwarded-For", "Sec-WebSocket-Key"):
            # The servers' parsers differ in which of these they accept.
            for value in (FORGED, FORGED[2:], FORGED.replace("\n", "")):
                refused_or_cut(front, handshake("/echo/", f"{name}: x{value}\r\n"))
        with front.upgraded("/echo/") as wire:
            wire.send(frame(0x88, b"\x0f\xa0" + FORGED.encode()))
            wire.closed()
        with front.upgraded("/echo/") as wire:
            wire.send(frame(0x81, b"x"))
            assert wire.frame() == (1, b"x")
        log = front.log[logged:]
        assert "\x1b" not in log
        assert "\nFORGED" not in log

    @pytest.mark.parametrize(
        ("query", "status", "line"),
        [
            ("", 400, r"'100 %s of [^\n]*\(Suspicion in "),
            ("?forbidden", 403, r"Forbidden \(Permission denied\)[^\n]*\(PermissionDenied in "),
        ],
    )
    def test_is_limited(
        self, start_server: StartServer, query: str, status: int, line: str
    ) -> None:
        """Django's log of client errors is limited, one line per error, and truncated."""
        server = start_server("own")
        for number in range(40):
            what = f"{number}-{FORGED}{'x' * 2000}"
            path = f"/events/suspicious/{quote(what)}/{query}"
            assert server.refused(path).status == status
        server.wait_for_log(line)
        log = server.log
        assert 0 < len(re.findall(line, log)) < 40
        assert "Traceback" not in log
        assert "x" * 1000 not in log
        assert "\nFORGED" not in log


class TestSessionFixation:
    """A session whose key an attacker knows before the victim signs in."""

    def test_planted_cookie(self, front: Server) -> None:
        """Signing in makes a new session; the old cookie and the old socket are useless."""
        mallory, ann = uuid4().hex, uuid4().hex
        planted = front.sign_in(mallory)
        with front.connect("/events/private/", additional_headers={"Cookie": planted}) as old:
            old.send("x")
            assert old.recv(timeout=TIMEOUT) == f"{mallory} {mallory}"
            fresh = front.sign_in(ann, planted)
            assert fresh != planted
            # The socket ended with the session in which it was opened.
            assert closing(old) == (4401, "session ended")
        assert front.refused("/events/private/", {"Cookie": planted}).status == 302
        with front.connect("/events/private/", additional_headers={"Cookie": fresh}) as own:
            own.send("x")
            assert own.recv(timeout=TIMEOUT) == f"{ann} {ann}"

    def test_planted_anonymous_session(self, front: Server) -> None:
        """The same holds for an anonymous session, and for a key that the attacker invented."""
        made_up = f"sessionid={uuid4().hex}"
        with front.connect("/session/", additional_headers={"Cookie": made_up}) as nobody:
            nobody.send("x")
            assert nobody.recv(timeout=TIMEOUT) == "1"
            assert front.sign_in(uuid4().hex, made_up) != made_up
        assert front.refused("/events/private/", {"Cookie": made_up}).status == 302

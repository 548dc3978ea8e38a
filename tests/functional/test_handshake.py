"""The handshake: what comes before the 101, and what the 101 carries."""

from __future__ import annotations

import json

import pytest

from tests.support import KEY, Server, frame, handshake


def answer_to(server: Server, raw: bytes) -> str:
    """Return the head of the response to these bytes."""
    with server.wire() as wire:
        wire.send(raw)
        return wire.head()


class TestPlainRequests:
    """Plain requests on the same port."""

    def test_is_served_on_the_same_port(self, server: Server) -> None:
        """A page and a socket come from the same address."""
        assert server.get("/").startswith("plain")
        with server.connect("/echo/") as websocket:
            websocket.send("hello")
            assert websocket.recv() == "hello"

    def test_environ_is_untouched(self, server: Server) -> None:
        """The environ of a plain request has no key of this package."""
        keys = json.loads(server.get("/environ/"))["keys"]
        assert [key for key in keys if "wsmux" in key or "websocket" in key] == []

    @pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.2", "websockets", "h2c, x-websocket"])
    def test_other_upgrades_pass_through(self, server: Server, upgrade: str) -> None:
        """An upgrade to another protocol gets the page."""
        seen = json.loads(server.get("/environ/", {"Upgrade": upgrade, "Connection": "Upgrade"}))
        assert seen["upgrade"] == upgrade

    def test_socket_paths_are_no_pages(self, server: Server) -> None:
        """A plain request is resolved in ROOT_URLCONF only."""
        assert server.request("/echo/").status == 404

    def test_pages_are_no_sockets(self, front: Server) -> None:
        """A handshake is resolved in WEBSOCKET_URLCONF only."""
        assert front.refused("/only-a-page/").status == 404


class TestAccepted:
    """RFC 6455 section 4.2.2."""

    @pytest.mark.parametrize("upgrade", ["WebSocket", "WEBSOCKET", "h2c, websocket"])
    def test_upgrade_is_a_list_without_case(self, front: Server, upgrade: str) -> None:
        """The Upgrade header is a list, and its tokens ignore case."""
        raw = handshake("/echo/").replace(b"websocket\r", upgrade.encode() + b"\r", 1)
        assert answer_to(front, raw).startswith("HTTP/1.1 101 ")

    def test_connection_is_a_list(self, front: Server) -> None:
        """The Connection header is a list: Firefox sends keep-alive too."""
        raw = handshake("/echo/").replace(b"n: Upgrade", b"n: keep-alive, upgrade")
        assert answer_to(front, raw).startswith("HTTP/1.1 101 ")

    def test_headers_of_middleware_on_the_101(self, front: Server) -> None:
        """Cookies and headers of middleware arrive, each on its own line and in its own case."""
        head = answer_to(front, handshake("/echo/"))
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        assert "X-Mixed-Case: KeepMyCase\r\n" in head
        assert "Set-Cookie: flavour=Chocolate; Path=/\r\n" in head
        assert "Set-Cookie: second=Too; Path=/\r\n" in head
        assert "X-Frame-Options: DENY\r\n" in head

    def test_101_has_no_content_length(self, front: Server) -> None:
        """RFC 9110 section 8.6 forbids Content-Length on the 101."""
        head = answer_to(front, handshake("/echo/")).lower()
        assert "\r\ncontent-length:" not in head
        assert "\r\ncontent-type:" not in head
        assert head.count("\r\nconnection:") == head.count("\r\nupgrade:") == 1

    def test_early_frames_are_not_lost(self, server: Server) -> None:
        """Bytes that the HTTP parser read past the headers become the first message."""
        early, bird = frame(0x81, b"early"), frame(0x81, b"bird")
        with server.wire() as wire:
            wire.send(handshake("/echo/") + early + bird[:4])
            assert wire.head().startswith("HTTP/1.1 101 ")
            assert wire.frame() == (1, b"early")
            wire.send(bird[4:])
            assert wire.frame() == (1, b"bird")

    def test_many_early_frames_are_not_lost(self, server: Server) -> None:
        """The same holds for more bytes than one read of the parser returns."""
        messages = [b"%05d" % i * 100 for i in range(200)]
        with server.wire() as wire:
            wire.send(handshake("/echo/") + b"".join(frame(0x82, data) for data in messages))
            assert wire.head().startswith("HTTP/1.1 101 ")
            assert [wire.frame() for _ in messages] == [(2, data) for data in messages]

    def test_subprotocol_by_the_servers_preference(self, front: Server) -> None:
        """The server selects the first subprotocol of its list that the client offers."""
        with front.connect("/subprotocol/", subprotocols=["chat.v1", "chat.v2"]) as websocket:
            assert websocket.subprotocol == "chat.v2"
            assert websocket.recv() == "chat.v2"

    @pytest.mark.parametrize("offered", [None, ["other"]])
    def test_no_common_subprotocol_is_no_error(
        self, front: Server, offered: list[str] | None
    ) -> None:
        """Without a common subprotocol, the socket opens without one."""
        with front.connect("/subprotocol/", subprotocols=offered) as websocket:
            assert websocket.subprotocol is None
            assert websocket.recv() == "None"


class TestRefusedByDjango:
    """Any HttpResponse is the answer, as plain HTTP."""

    @pytest.mark.parametrize("status", [200, 302, 403, 404, 429, 500, 503])
    def test_any_status(self, front: Server, status: int) -> None:
        """Status, headers and body arrive as the view made them."""
        response = front.refused(f"/status/{status}/")
        assert response.status == status
        if status == 302:
            assert response.headers["Location"] == "/elsewhere/"
        else:
            assert response.text == f"status {status}"
            assert response.headers["Retry-After"] == "7"

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/nowhere/", 404), ("/missing/", 404), ("/denied/", 403), ("/crash-before/", 500)],
    )
    def test_exceptions(self, front: Server, path: str, status: int) -> None:
        """An exception of a view before the 101 becomes Django's error page."""
        assert front.refused(path).status == status

    def test_login_required(self, front: Server) -> None:
        """An anonymous user is redirected to LOGIN_URL, a name among the pages."""
        response = front.refused("/private/")
        assert response.status == 302
        assert response.headers["Location"] == "/login/?next=/private/"

    def test_permission_required(self, front: Server) -> None:
        """A user without the permission gets 403."""
        assert front.refused("/staff/").status == 403

    def test_connection_lives_on(self, front: Server) -> None:
        """A refusal is an ordinary response: the next request uses the same connection."""
        with front.wire() as wire:
            wire.send(handshake("/status/403/"))
            assert wire.head().startswith("HTTP/1.1 403 Forbidden\r\n")
            assert wire.read(10) == b"status 403"
            wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wire.head().startswith("HTTP/1.1 200 OK\r\n")


class TestRefusedByTheHandshake:
    """RFC 6455 section 4.2.1: rules that need no application."""

    @pytest.mark.parametrize(
        ("old", "new", "status", "reason"),
        [
            ("GET ", "POST ", "405", "GET request"),
            ("HTTP/1.1", "HTTP/1.0", "400", "proxy_http_version 1.1"),
            ("Connection: Upgrade", "Connection: keep-alive", "400", "proxy_set_header"),
            ("Version: 13", "Version: 12", "426", "13"),
            ("Sec-WebSocket-Version: 13\r\n", "", "426", "13"),
            (KEY, "short", "400", "Sec-WebSocket-Key"),
            (f"Sec-WebSocket-Key: {KEY}\r\n", "", "400", "Sec-WebSocket-Key"),
        ],
    )
    def test_refused(self, front: Server, old: str, new: str, status: str, reason: str) -> None:
        """The answer is plain HTTP and says what to change."""
        with front.wire() as wire:
            wire.send(handshake("/echo/").replace(old.encode(), new.encode(), 1))
            answer = wire.head()
            assert answer.split()[1] == status
            length = int(answer.lower().partition("content-length: ")[2].split()[0])
            assert reason in wire.read(length).decode()
        if status == "426":
            assert "Sec-WebSocket-Version: 13\r\n" in answer
        if status == "405":
            assert "Allow: GET\r\n" in answer

    def test_no_body(self, front: Server) -> None:
        """A handshake with a body is refused: the body would be read as frames."""
        raw = handshake("/echo/", "Content-Length: 7\r\n") + frame(0x81, b"x")
        assert answer_to(front, raw).startswith("HTTP/1.1 400 ")


class TestOrigin:
    """RFC 6455 section 10.2."""

    @pytest.mark.parametrize("origin", ["https://friend.example", "https://a.friends.example"])
    def test_allowed(self, front: Server, origin: str) -> None:
        """Origins in WEBSOCKET_ALLOWED_ORIGINS may connect."""
        with front.connect("/echo/", origin=origin):
            pass

    def test_same(self, front: Server) -> None:
        """The site's own pages may connect."""
        with front.connect("/echo/", origin=f"http://127.0.0.1:{front.port}"):
            pass

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
    def test_foreign(self, front: Server, origin: str) -> None:
        """Others are refused; ``test_abuse.py`` tests many more, and the log."""
        assert front.refused("/echo/", {"Origin": origin}).status == 403

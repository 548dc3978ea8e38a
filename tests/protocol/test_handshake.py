"""The opening handshake over a WSGI environ."""

import pytest

from django_wsmux.protocol.handshake import (
    Refusal,
    accept_key,
    check,
    is_websocket,
    select_subprotocol,
    switching_protocols,
    take_token,
)

# The example of section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": KEY,
}


def refuse(name: str, value: str | None) -> Refusal:
    """Return the answer to a good handshake with one value changed or, with None, removed."""
    changed = {**ENVIRON, name: value}
    refusal = check({key: each for key, each in changed.items() if each is not None})
    assert refusal is not None
    return refusal


class TestIsWebSocket:
    """Section 4.2.1, item 3: the Upgrade header."""

    @pytest.mark.parametrize(
        "upgrade", ["websocket", "WebSocket", "WEBSOCKET", "h2c, websocket", "websocket ,h2c"]
    )
    def test_websocket(self, upgrade: str) -> None:
        """The token counts in any case, alone or in a list."""
        assert is_websocket(upgrade)

    @pytest.mark.parametrize("upgrade", ["", "h2c", "websockets", "web socket", "TLS/1.0, h2c"])
    def test_other(self, upgrade: str) -> None:
        """Another protocol is left to other handlers."""
        assert not is_websocket(upgrade)


class TestCheck:
    """Section 4.2.1: reading the client's opening handshake."""

    def test_good(self) -> None:
        """A handshake with everything that the section requires passes."""
        assert check(ENVIRON) is None

    @pytest.mark.parametrize("method", ["POST", "HEAD", "CONNECT", "get"])
    def test_method(self, method: str) -> None:
        """Only GET opens a socket, and the answer says so."""
        refusal = refuse("REQUEST_METHOD", method)
        assert refusal.status == "405 Method Not Allowed"
        assert refusal.headers == (("Allow", "GET"),)

    @pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/0.9", None])
    def test_http_version(self, version: str | None) -> None:
        """HTTP/1.0, the default of some proxies, is refused with the line to add."""
        refusal = refuse("SERVER_PROTOCOL", version)
        assert refusal.status == "400 Bad Request"
        assert "proxy_http_version 1.1" in refusal.reason

    @pytest.mark.parametrize("connection", ["upgrade", "keep-alive, Upgrade", "UPGRADE ,close"])
    def test_connection(self, connection: str) -> None:
        """The token may be in a list, in any case."""
        assert check({**ENVIRON, "HTTP_CONNECTION": connection}) is None

    @pytest.mark.parametrize("connection", ["close", "keep-alive", "upgraded", "", None])
    def test_connection_without_upgrade(self, connection: str | None) -> None:
        """Without the token, which some proxies drop by default, the answer has the line to add."""
        refusal = refuse("HTTP_CONNECTION", connection)
        assert refusal.status == "400 Bad Request"
        assert 'proxy_set_header Connection "upgrade"' in refusal.reason

    @pytest.mark.parametrize("length", ["", "0"])
    def test_empty_body(self, length: str) -> None:
        """An empty body is no body."""
        assert check({**ENVIRON, "CONTENT_LENGTH": length}) is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CONTENT_LENGTH", "1"),
            ("CONTENT_LENGTH", "00"),
            ("CONTENT_LENGTH", "-1"),
            ("HTTP_TRANSFER_ENCODING", "chunked"),
            ("HTTP_TRANSFER_ENCODING", ""),
        ],
    )
    def test_body(self, name: str, value: str) -> None:
        """A body, whose bytes would be read as frames, is refused."""
        assert refuse(name, value).status == "400 Bad Request"

    @pytest.mark.parametrize("version", ["8", "12", "14", "13, 8", "", None])
    def test_version(self, version: str | None) -> None:
        """Section 4.4: the answer to another version names the supported one."""
        refusal = refuse("HTTP_SEC_WEBSOCKET_VERSION", version)
        assert refusal.status == "426 Upgrade Required"
        assert ("Sec-WebSocket-Version", "13") in refusal.headers
        assert ("Upgrade", "websocket") in refusal.headers

    @pytest.mark.parametrize(
        "key",
        [
            None,
            "",
            "short",
            "AAAAAAAAAAAAAAAAAAAA",  # 15 bytes
            "AAAAAAAAAAAAAAAAAAAAAAA=",  # 17 bytes
            "AAAAAAAAAAAAAAAAAAAAAA",  # no padding
            "AAAAAAAAAA!AAAAAAAAAAA==",  # not of the alphabet
            "AAAAAAAAAA AAAAAAAAAAAA==",
            "AAAAAAAAAAAAAAAAAAAAAA==\n",
            "é" * 24,
            f"{KEY},{KEY}",  # sent twice, joined by the server
        ],
    )
    def test_key(self, key: str | None) -> None:
        """Anything except the base64 of 16 bytes, sent once, is refused."""
        refusal = refuse("HTTP_SEC_WEBSOCKET_KEY", key)
        assert refusal.status == "400 Bad Request"
        assert "Sec-WebSocket-Key" in refusal.reason


class TestAcceptKey:
    """Section 4.2.2, item 5.4: the answer to the key."""

    def test_example(self) -> None:
        """The result for the example of section 1.3 is right."""
        assert accept_key(KEY) == ACCEPT


class TestSelectSubprotocol:
    """Section 4.2.2, item 5.5: the subprotocol."""

    def test_preference(self) -> None:
        """The server's order decides, not the client's."""
        assert select_subprotocol("a, b", ["b", "a"]) == "b"

    @pytest.mark.parametrize("offered", ["a,b", " a ", "b,\ta"])
    def test_spaces(self, offered: str) -> None:
        """Spaces around a name do not count."""
        assert select_subprotocol(offered, ["a"]) == "a"

    @pytest.mark.parametrize("offered", ["c", "A", "ab", "", None])
    def test_none_in_common(self, offered: str | None) -> None:
        """No common name is not an error; names are case-sensitive."""
        assert select_subprotocol(offered, ["a", "b"]) is None

    @pytest.mark.parametrize("name", ["a b", "a\rb", "a\0", "\x1b[31m", "\xe9", "a\x7f"])
    def test_not_a_token(self, name: str) -> None:
        """An invalid token is never selected, even if the server accepts any offer."""
        assert select_subprotocol(f"{name}, b", [name, "b"]) == "b"

    @pytest.mark.parametrize("name", ["a", "!#$%&'*+-.^_`|~", "v1/a=b;c", "base64url.x.y-_"])
    def test_token(self, name: str) -> None:
        """Any valid token can be selected."""
        assert select_subprotocol(name, [name]) == name

    def test_none_supported(self) -> None:
        """A server without subprotocols never agrees to one."""
        assert select_subprotocol("a", []) is None


class TestSwitchingProtocols:
    """Section 4.2.2, item 5: the 101 response."""

    def test_least(self) -> None:
        """Without a subprotocol the response is four lines and an empty one."""
        assert switching_protocols(KEY, None, []) == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
        )

    def test_subprotocol(self) -> None:
        """The selected subprotocol is in the response."""
        response = switching_protocols(KEY, "chat.v1", [])
        assert response.endswith(b"\r\nSec-WebSocket-Protocol: chat.v1\r\n\r\n")

    def test_headers(self) -> None:
        """Names and values are sent unchanged, including repeated ones and latin-1."""
        cookies = [("Set-Cookie", "a=Ab"), ("set-cookie", "b=\xe9")]
        response = switching_protocols(KEY, None, cookies)
        assert response.endswith(b"\r\nSet-Cookie: a=Ab\r\nset-cookie: b=\xe9\r\n\r\n")

    def test_space_before_a_value(self) -> None:
        """The space that Django writes before a cookie is not doubled after the colon."""
        response = switching_protocols(KEY, None, [("Set-Cookie", " a=b")])
        assert response.endswith(b"\r\nSet-Cookie: a=b\r\n\r\n")

    @pytest.mark.parametrize(
        "name",
        [
            "Connection",
            "Content-Length",
            "content-type",
            "KEEP-ALIVE",
            "Sec-WebSocket-Accept",
            "Sec-WebSocket-Extensions",
            "Sec-WebSocket-Protocol",
            "Transfer-Encoding",
            "Upgrade",
        ],
    )
    def test_omitted_headers(self, name: str) -> None:
        """Headers of the handshake or of a body are left out, in any case."""
        headers = [(name, "x"), ("Server", "y")]
        assert switching_protocols(KEY, None, headers) == switching_protocols(
            KEY, None, [("Server", "y")]
        )

    @pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r", "\0"])
    @pytest.mark.parametrize("part", ["name", "value", "subprotocol"])
    def test_line_break(self, part: str, line_break: str) -> None:
        """No line break can split the response."""
        evil = f"a{line_break}b: c"
        name, value = evil if part == "name" else "X", evil if part == "value" else "y"
        with pytest.raises(ValueError, match="line break on the 101"):
            switching_protocols(KEY, evil if part == "subprotocol" else None, [(name, value)])

    def test_not_latin_1(self) -> None:
        """A value that HTTP cannot carry is the same kind of error."""
        with pytest.raises(ValueError, match="latin-1"):
            switching_protocols(KEY, None, [("X", "€")])


def test_extensions() -> None:
    """The answer to the client's offer is in the 101."""
    head = switching_protocols(KEY, None, [], "permessage-deflate")
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" in head


class TestToken:
    """A token among the subprotocols."""

    @pytest.mark.parametrize(
        ("offered", "left", "header"),
        [
            ("bearer, abc.DEF-1", "bearer", "Bearer abc.DEF-1"),
            ("chat.v1,bearer,abc", "chat.v1, bearer", "Bearer abc"),
            ("bearer, abc, chat.v1", "bearer, chat.v1", "Bearer abc"),
            ("bearer, bearer", "bearer", "Bearer bearer"),
            ("bearer, a%2Fb%3D%C3%BC", "bearer", "Bearer a/b=\xc3\xbc"),
            # A value that would not be a line of text stays unchanged.
            ("bearer, a%0D%0Ab%00", "bearer", "Bearer a%0D%0Ab%00"),
            ("bearer,", "bearer", "Bearer "),
        ],
    )
    def test_taken(self, offered: str, left: str, header: str) -> None:
        """The token becomes the Authorization header, and replaces an existing one."""
        environ = {"HTTP_SEC_WEBSOCKET_PROTOCOL": offered, "HTTP_AUTHORIZATION": "Basic x"}
        take_token(environ)
        assert environ == {"HTTP_SEC_WEBSOCKET_PROTOCOL": left, "HTTP_AUTHORIZATION": header}

    @pytest.mark.parametrize("offered", [None, "", "chat.v1", "chat.v1, bearer", "Bearer, x"])
    def test_without_a_token(self, offered: str | None) -> None:
        """Without a token, nothing changes."""
        environ = {} if offered is None else {"HTTP_SEC_WEBSOCKET_PROTOCOL": offered}
        before = dict(environ)
        take_token(environ)
        assert environ == before

"""The opening handshake with any headers.

* Each function returns what it documents; none raises, except ``switching_protocols()`` for an
  application's header that HTTP cannot carry.
* A handshake that the server of ``websockets`` accepts is accepted here.
* No control character is sent, and a 101 has exactly the header lines that it should have.
* An answer to an offer of permessage-deflate is one that RFC 7692 section 7.1 allows, and the
  streams that it describes can be created.
* An origin of the same site has the name of its host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from websockets.headers import parse_extension
from websockets.http11 import Request
from websockets.server import ServerProtocol

from django_wsmux.protocol import handshake, origin
from django_wsmux.protocol.deflate import Compression, negotiate

from .choices import Choices

__all__ = ["check"]

Headers = list[tuple[str, str]]

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="

#: The environ of a good handshake.
_GOOD = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": KEY,
}

_WORDS = (
    "permessage-deflate; client_max_window_bits",
    "websocket",
    "upgrade",
    "keep-alive",
    "content-type",
    "chat.v1",
    "chat.v2",
    "server_no_context_takeover",
    "client_no_context_takeover",
    "client_max_window_bits=8",
    "server_max_window_bits=9",
    "server_max_window_bits=8",
    'server_max_window_bits="15"',
    "x-webkit-deflate-frame",
    "=",
    ";",
    '"',
    ",",
    " ",
    "\t",
    "\r\n",
    "\n",
    "\0",
    "\x7f",
    "é",
    "0",
    KEY,
)

_ORIGINS = (
    "https://example.com",
    "http://example.com",
    "https://",
    "http://",
    "example.com",
    "EXAMPLE.com",
    "chat.",
    ":443",
    ":80",
    ":99999",
    ":x",
    ":",
    "@",
    "[::1]",
    "127.0.0.1",
    "localhost",
    "null",
    "/",
    "?",
    "#",
    "*.",
    "\\",
    "[",
    "]",
    "%",
    "\xad",
    "\t",
    "é",
)

_COMPRESSIONS = (
    Compression(),
    Compression(context_takeover=True),
    Compression(window_bits=9),
    Compression(window_bits=12, context_takeover=True),
)

_SUBPROTOCOLS = ("chat.v2", "chat.v1", "")

_HOSTS = ("example.com", "example.com:8000", "127.0.0.1", "[::1]:80", "localhost")

_PATTERNS = ("https://example.com", "https://*.example.com", "http://[::1]:80", "https://[", "x")

#: Headers that an application cannot set (RFC 6455 section 4.2.2, RFC 9110 section 8.6).
_NOT_ON_101 = (
    "connection",
    "content-length",
    "content-type",
    "keep-alive",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "transfer-encoding",
    "upgrade",
)

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def check(data: bytes) -> None:
    """Try one input.

    Raises:
        AssertionError: the handshake breaks a promise.
    """
    choices = Choices(data)
    extensions = _check_extensions(choices)
    _check_origin(choices)
    _check_handshake(choices, extensions)


def _text(choices: Choices, words: Sequence[str]) -> str:
    """Return words and arbitrary characters; WSGI's strings are latin-1."""
    parts = []
    for _ in range(choices.number(12)):
        if choices.number(4) == 3:
            parts.append(choices.take(choices.number(8)).decode("latin-1"))
        else:
            parts.append(choices.one_of(words))
    return "".join(parts)


# Extensions


def _check_extensions(choices: Choices) -> str | None:
    offered = _text(choices, _WORDS)
    compression = choices.one_of(_COMPRESSIONS)
    agreed = negotiate(offered, compression)
    if agreed is None:
        return None
    answer, deflate = agreed
    _assert_clean(answer)
    ((name, parameters),) = parse_extension(answer)
    assert name == "permessage-deflate"
    answered = dict(parameters)
    assert len(answered) == len(parameters)
    offers = [dict(asked) for each, asked in parse_extension(offered) if each == name]
    assert any(_answers(offer, answered) for offer in offers)
    assert deflate.local_takeover == ("server_no_context_takeover" not in answered)
    assert deflate.remote_takeover == ("client_no_context_takeover" not in answered)
    assert deflate.local_bits == int(answered.get("server_max_window_bits") or 15)
    # The client may have been told nothing, and then uses less.
    assert deflate.remote_bits <= int(answered.get("client_max_window_bits") or 15)
    stream = deflate.compressor()
    packed = stream.compress(b"hello" * 99) + stream.flush()
    assert deflate.decompressor().decompress(packed) or deflate.local_bits > deflate.remote_bits
    return answer


def _answers(offer: dict[str, str | None], answer: dict[str, str | None]) -> bool:
    """Return whether RFC 7692 section 7.1 allows this answer to that offer."""
    if "server_no_context_takeover" in offer and "server_no_context_takeover" not in answer:
        return False
    if "server_max_window_bits" in offer:
        asked, told = offer["server_max_window_bits"], answer.get("server_max_window_bits")
        if not 8 <= _bits(told) <= _bits(asked):
            return False
    if "client_max_window_bits" in answer:
        told = answer["client_max_window_bits"]
        limit = offer.get("client_max_window_bits", "0") or "15"
        return 8 <= _bits(told) <= _bits(limit)
    return True


def _bits(value: str | None) -> int:
    """Return the size of a window; 0 for an invalid one."""
    return int(value) if value is not None and re.fullmatch(r"\d|1\d", value) else 0


# Origin


def _check_origin(choices: Choices) -> None:
    claimed, host = _text(choices, _ORIGINS), _text(choices, (*_HOSTS, *_ORIGINS))
    for secure in (True, False):
        if origin.is_same(claimed, host, secure=secure):
            name, port = _site(claimed)
            assert (name, port) == _site("http://" + host, port)
            assert claimed.lower().startswith("https" if secure else "http")
    is_allowed = origin.is_allowed(claimed, (*_PATTERNS, _text(choices, _ORIGINS)))
    assert is_allowed in (True, False)
    assert origin.is_allowed(claimed, ["*"])
    if origin.is_allowed(claimed, _PATTERNS):
        name, _ = _site(claimed)
        assert name in ("example.com", "[::1]") or name.endswith(".example.com")
    if origin.is_loopback(claimed):
        name, _ = _site(claimed)
        assert re.fullmatch(r"(.*\.)?localhost|\[.*\]|127\.\d+\.\d+\.\d+", name), name


def _site(url: str, default: str | None = None) -> tuple[str, str]:
    """Return host and port of an origin, parsed by its grammar alone."""
    match = re.fullmatch(r"(https?)://([^]\s/?#@:[]+|\[[^][]*\])(?::(\d+))?", url.lower())
    assert match is not None, url
    default = default or {"http": "80", "https": "443"}[match[1]]
    return match[2], str(int(match[3] or default))


# The request, and the 101


def _environ(choices: Choices) -> dict[str, str]:
    environ = dict(_GOOD)
    for key in (*_GOOD, "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"):
        change = choices.number(8)
        if change == 7 and key != "REQUEST_METHOD":  # which WSGI guarantees
            environ.pop(key, None)
        elif change == 6:
            environ[key] = _text(choices, _WORDS).strip(" \t")  # as servers do
        elif change == 5 and key in environ:
            environ[key] = f"{_text(choices, _WORDS)}, {environ[key]}".lstrip(" \t")
    return environ


def _check_handshake(choices: Choices, extensions: str | None) -> None:
    environ = _environ(choices)
    is_websocket = handshake.is_websocket(environ.get("HTTP_UPGRADE", ""))
    refusal = handshake.check(environ)
    if refusal is not None:
        assert re.fullmatch(r"4\d\d [A-Za-z ]+", refusal.status)
        _assert_clean(refusal.reason, *(text for header in refusal.headers for text in header))
    if _engine_accepts(environ):
        assert is_websocket
        assert refusal is None
    if refusal is None:
        _assert_well_formed(environ)
        _check_answer(choices, environ["HTTP_SEC_WEBSOCKET_KEY"], extensions)


def _assert_well_formed(environ: dict[str, str]) -> None:
    """Assert the requirements of RFC 6455 section 4.2.1 for a handshake."""
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert "upgrade" in environ["HTTP_CONNECTION"].lower()
    assert environ["HTTP_SEC_WEBSOCKET_VERSION"] == "13"
    assert re.fullmatch(r"[A-Za-z0-9+/]{22}==", environ["HTTP_SEC_WEBSOCKET_KEY"])
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ.get("CONTENT_LENGTH", "") in ("", "0")


def _engine_accepts(environ: dict[str, str]) -> bool:
    """Return whether the server of ``websockets`` answers with 101."""
    if not all(_FIELD_VALUE.fullmatch(value) for value in environ.values()):
        return False
    if environ.get("REQUEST_METHOD") != "GET" or environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return False
    if {"CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"} & environ.keys():
        return False
    lines = [
        f"{key.removeprefix('HTTP_').replace('_', '-')}: {value}"
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
    head = "\r\n".join(["GET / HTTP/1.1", "Host: localhost", *lines, "", ""])
    engine = ServerProtocol()
    engine.receive_data(head.encode("latin-1"))
    try:
        return any(
            isinstance(event, Request) and engine.accept(event).status_code == 101
            for event in engine.events_received()
        )
    except UnicodeEncodeError:
        # websockets 14 refuses, but cannot encode the reason.
        return False


def _check_answer(choices: Choices, key: str, extensions: str | None) -> None:
    offered = _text(choices, _WORDS) if choices.flag() else None
    subprotocol = handshake.select_subprotocol(offered, _SUBPROTOCOLS)
    if subprotocol is not None:
        assert offered is not None
        assert subprotocol in _SUBPROTOCOLS
        assert subprotocol in offered
    head = _lines(handshake.switching_protocols(key, subprotocol, [], extensions))
    assert head[0] == "HTTP/1.1 101 Switching Protocols"
    assert len(head) == 4 + (subprotocol is not None) + (extensions is not None)
    _assert_clean(*head)
    assert re.fullmatch(r"Sec-WebSocket-Accept: [A-Za-z0-9+/]{27}=", head[3])
    _check_headers(choices, key, head)


def _check_headers(choices: Choices, key: str, bare: list[str]) -> None:
    """Add an application's headers: each becomes a line, or the call fails."""
    headers = [(_text(choices, _WORDS), _text(choices, _WORDS)) for _ in range(choices.number(3))]
    kept = [
        f"{name}: " + value.strip(" \t")
        for name, value in headers
        if name.lower() not in _NOT_ON_101
    ]
    is_broken = any(set(line) & {"\r", "\n", "\0"} for line in kept)
    try:
        head = _lines(handshake.switching_protocols(key, None, headers))
    except ValueError:
        assert is_broken
        return
    assert not is_broken
    assert head == bare[:4] + kept


def _lines(head: bytes) -> list[str]:
    lines = head.decode("latin-1").split("\r\n")
    assert lines[-2:] == ["", ""]
    return lines[:-2]


def _assert_clean(*texts: str) -> None:
    """Assert that no text breaks out of its line or hides characters in it."""
    for text in texts:
        assert not _CONTROL.search(text), text
        assert text.isascii()

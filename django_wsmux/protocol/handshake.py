"""The opening handshake over a WSGI environ (RFC 6455 section 4.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

__all__ = [
    "BEARER",
    "HAS_BODY",
    "V1",
    "Refusal",
    "accept_key",
    "allowed_on_101",
    "check",
    "is_websocket",
    "select_subprotocol",
    "switching_protocols",
    "take_token",
]

GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: The subprotocol after which the client's list has a bearer token.
BEARER: Final = "bearer"

#: Our own subprotocol. A client that offers it understands refusals as close codes.
V1: Final = "wsmux.v1"

# RFC 9110 section 8.6 forbids Content-Length on a 1xx response. The others belong to the handshake
# itself, or describe a body or an HTTP connection.
_NOT_ON_101: Final = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "keep-alive",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "transfer-encoding",
        "upgrade",
    }
)


# A subprotocol consists of U+0021 to U+007E (section 4.1). It may not contain separators, but some
# are in use.
_TOKEN: Final = re.compile(r"[!-+\--~]+")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer to a handshake that cannot succeed.

    Attributes:
        status: status line without the version, such as ``"400 Bad Request"``.
        headers: further response headers that the status requires.
        reason: one sentence for the client and the log; it says what to change.
    """

    status: str
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


#: A body would be read as frames, which would let a client smuggle them past a proxy.
HAS_BODY: Final = Refusal("400 Bad Request", "A WebSocket handshake must not have a body.")


def _tokens(value: str) -> Iterable[str]:
    return (token.strip().lower() for token in value.split(","))


def is_websocket(upgrade: str) -> bool:
    """Return whether an ``Upgrade`` header asks for WebSocket, alone or among others.

    The value is a list of protocols, compared case-insensitively (RFC 6455 section 4.2.1,
    RFC 9110 section 7.8). Other protocols, such as ``h2c``, are ignored.
    """
    return upgrade == "websocket" or "websocket" in _tokens(upgrade)


def check(environ: Mapping[str, Any]) -> Refusal | None:
    """Check a handshake before the application is called (RFC 6455 section 4.2.1).

    Returns:
        The refusal to send instead of calling the application, or ``None``.
    """
    if environ["REQUEST_METHOD"] != "GET":
        return Refusal(
            "405 Method Not Allowed",
            "A WebSocket handshake must be a GET request.",
            (("Allow", "GET"),),
        )
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return Refusal(
            "400 Bad Request",
            "A WebSocket handshake needs HTTP/1.1; in nginx: proxy_http_version 1.1.",
        )
    if "upgrade" not in _tokens(environ.get("HTTP_CONNECTION", "")):
        return Refusal(
            "400 Bad Request",
            "The Connection header lacks the token Upgrade; "
            'in nginx: proxy_set_header Connection "upgrade".',
        )
    if environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ:
        return HAS_BODY
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != "13":
        # Section 4.4: name the supported versions.
        return Refusal(
            "426 Upgrade Required",
            "Only Sec-WebSocket-Version 13 is supported.",
            (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")),
        )
    if not _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")):
        return Refusal(
            "400 Bad Request", "Sec-WebSocket-Key must be the base64 of 16 bytes, sent once."
        )
    return None


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def accept_key(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` for ``key`` (RFC 6455 section 4.2.2).

    Example:
        >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
        's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    # The RFC names SHA-1; nothing secret depends on it.
    digest = hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def select_subprotocol(offered: str | None, supported: Sequence[str]) -> str | None:
    """Choose the first of ``supported`` that the client offers.

    No common subprotocol is not an error (RFC 6455 section 4.2.2): the connection opens without
    one, and a client that needs one closes it. Names that are not valid header tokens are ignored,
    even if the application echoes whatever is offered (section 4.1).

    Args:
        offered: the ``Sec-WebSocket-Protocol`` header, or ``None``.
        supported: names in the server's order of preference.
    """
    if not offered or not supported:
        return None
    names = {name.strip() for name in offered.split(",")}
    return next((name for name in supported if name in names and _TOKEN.fullmatch(name)), None)


def take_token(environ: dict[str, Any]) -> None:
    """Move a bearer token from the subprotocol list into the ``Authorization`` header.

    A browser's script can set no other header: ``new WebSocket(url, ["bearer", token])``. The
    entry after ``bearer`` is not a subprotocol but a secret. In the ``Authorization`` header (RFC
    6750 section 2.1) other software knows to keep it out of logs and error pages. A token with
    characters that RFC 9110 section 5.6.2 does not allow in the list is percent-encoded.
    """
    names = [name.strip() for name in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")]
    if BEARER not in names[:-1]:
        return
    token = names.pop(names.index(BEARER) + 1)
    # WSGI strings are bytes in latin-1. A token that would not be one line stays encoded.
    decoded = unquote(token, encoding="latin-1")
    environ["HTTP_AUTHORIZATION"] = f"Bearer {decoded if decoded.isprintable() else token}"
    environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = ", ".join(names)


def allowed_on_101(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of a response that may appear on a 101."""
    return [header for header in headers if header[0].lower() not in _NOT_ON_101]


def switching_protocols(
    key: str,
    subprotocol: str | None,
    headers: Iterable[tuple[str, str]],
    extensions: str | None = None,
) -> bytes:
    """Return the head of the 101 response.

    Args:
        key: the client's ``Sec-WebSocket-Key``.
        subprotocol: the negotiated subprotocol, or ``None``.
        headers: headers that the application adds, such as cookies. Names and values are sent
            unchanged, except that white space around values is removed. Headers that may not
            appear on a 101 are left out.
        extensions: the value of ``Sec-WebSocket-Extensions``, or ``None``.

    Raises:
        ValueError: a header contains a line break.
    """
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions is not None:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    for name, value in allowed_on_101(headers):
        # Django writes cookies with a leading space.
        lines.append(f"{name}: " + value.strip(" \t"))
    text = "".join(lines)
    if "\r" in text or "\n" in text or "\0" in text:
        line = next(line for line in lines if not {*"\r\n\0"}.isdisjoint(line))
        raise ValueError(f"header with a line break on the 101 response: {line!r}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

"""The opening handshake over a WSGI environ (RFC 6455 section 4.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

#: The subprotocol that says that the next entry of the client's list is a token.
BEARER: Final = "bearer"

#: Our own subprotocol. A client that offers it understands a refusal that is a close code.
V1: Final = "wsmux.v1"

# RFC 9110 section 8.6 forbids Content-Length on a 1xx; the rest belongs to the handshake itself or
# is about a body or a connection that is no longer HTTP.
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


# A subprotocol has U+0021 to U+007E (section 4.1); of the separators that it may not have, some are
# in use.
_TOKEN: Final = re.compile(r"[!-+\--~]+")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer to a handshake that cannot succeed.

    Attributes:
        status: status line without the version, such as ``"400 Bad Request"``.
        headers: further response headers that the status asks for.
        reason: one sentence for the client and the log that says what to change.
    """

    status: str
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


#: The bytes of a body would be read as frames: a way to smuggle them past a proxy.
HAS_BODY: Final = Refusal("400 Bad Request", "A WebSocket handshake has no body.")


def _tokens(value: str) -> Iterable[str]:
    return (token.strip().lower() for token in value.split(","))


def is_websocket(upgrade: str) -> bool:
    """Say whether an ``Upgrade`` header asks for WebSocket, alone or among others.

    The value is a list of protocols compared without case (RFC 6455 section 4.2.1,
    RFC 9110 section 7.8): ``h2c`` and friends are somebody else's.
    """
    return upgrade == "websocket" or "websocket" in _tokens(upgrade)


def check(environ: Mapping[str, Any]) -> Refusal | None:
    """Check what needs no application to judge (RFC 6455 section 4.2.1).

    Returns:
        The answer to send instead of asking the application, or ``None``.
    """
    if environ["REQUEST_METHOD"] != "GET":
        return Refusal(
            "405 Method Not Allowed",
            "A WebSocket handshake is a GET request.",
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
        # Section 4.4: name the versions that are spoken here.
        return Refusal(
            "426 Upgrade Required",
            "Only Sec-WebSocket-Version 13 is spoken here.",
            (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")),
        )
    if not _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")):
        return Refusal(
            "400 Bad Request", "Sec-WebSocket-Key is not the base64 of 16 bytes, sent once."
        )
    return None


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def accept_key(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers ``key`` (RFC 6455 section 4.2.2).

    Example:
        >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
        's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    # The RFC names SHA-1; nothing secret depends on it.
    digest = hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def select_subprotocol(offered: str | None, supported: Sequence[str]) -> str | None:
    """Choose the first of ``supported`` that the client offers.

    No common one is not an error (RFC 6455 section 4.2.2): the connection opens without, and
    a client that cannot do without closes it. A name that could not stand in a header is none, be
    it that the application takes whatever is offered (section 4.1).

    Args:
        offered: the ``Sec-WebSocket-Protocol`` header, or ``None``.
        supported: names in the server's order of preference.
    """
    if not offered or not supported:
        return None
    names = {name.strip() for name in offered.split(",")}
    return next((name for name in supported if name in names and _TOKEN.fullmatch(name)), None)


def take_token(environ: dict[str, Any]) -> None:
    """Make a token among the subprotocols what it would be from a client that can send headers.

    A browser's script can send no header but this list: ``new WebSocket(url, ["bearer", token])``.
    What stands after ``bearer`` is no subprotocol, and a secret: it becomes the ``Authorization``
    header (RFC 6750 section 2.1), which everybody knows to keep out of logs and error pages. A
    token of other characters than RFC 9110 section 5.6.2 allows there is percent-encoded.
    """
    names = [name.strip() for name in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")]
    if BEARER not in names[:-1]:
        return
    token = names.pop(names.index(BEARER) + 1)
    # As WSGI has strings: bytes in latin-1. What would not be one line stays as it is.
    decoded = unquote(token, encoding="latin-1")
    environ["HTTP_AUTHORIZATION"] = f"Bearer {decoded if decoded.isprintable() else token}"
    environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = ", ".join(names)


def allowed_on_101(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the headers of a response that have a place on a 101."""
    return ((name, value) for name, value in headers if name.lower() not in _NOT_ON_101)


def switching_protocols(
    key: str,
    subprotocol: str | None,
    headers: Iterable[tuple[str, str]],
    extensions: str | None = None,
) -> bytes:
    """Return the head of the 101 response.

    Args:
        key: the client's ``Sec-WebSocket-Key``.
        subprotocol: the one agreed on, or ``None``.
        headers: what the application wants to add (cookies, say); names and values go out as
            they are, but for white space around values; those that have no place on a 101 are
            left out.
        extensions: the answer to ``Sec-WebSocket-Extensions``, or ``None``.

    Raises:
        ValueError: a header would break the response apart.
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
        # Django writes cookies with a space in front.
        lines.append(f"{name}: " + value.strip(" \t"))
    for line in lines:
        if "\r" in line or "\n" in line or "\0" in line:
            raise ValueError(f"header with a line break on the 101 response: {line!r}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

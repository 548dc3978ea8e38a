"""Decides which web pages may open a socket (RFC 6455 section 10.2).

A browser sends cookies with a cross-site handshake, and no CORS rule stops it. Only a check of the
``Origin`` header keeps a foreign page from using the visitor's session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["OPAQUE", "has_port", "is_allowed", "is_loopback", "is_same", "problem"]

#: Origins that name no site: a sandboxed frame or a redirected request, and a local file. They must
#: be allowed by name.
OPAQUE: Final = ("null", "file://")

_DEFAULT_PORTS = {"http": 80, "https": 443}

# Some clients that are not browsers (ws4py, Starscream) derive the origin from the URL.
_PAGES = {"ws": "http", "wss": "https"}

# RFC 6454 section 6.2, or a pattern. urlsplit() alone ignores white space inside and text around
# brackets, and accepts two headers that the server has joined with a comma.
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|(?:\*\.)?[\w.-]+)(?::[0-9]+)?", re.IGNORECASE
)


def _split(url: str) -> SplitResult | None:
    """Return the parts of an origin, or ``None`` if it is not scheme://host[:port]."""
    if not _ORIGIN.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises ValueError for a bad port
    except ValueError:
        return None
    return parts._replace(scheme=_PAGES.get(parts.scheme, parts.scheme))


def is_same(origin: str, host: str, *, secure: bool) -> bool:
    """Return whether ``origin`` is the site that the request was sent to.

    Host and port are compared. The scheme is not, because a proxy may terminate TLS without telling
    the application. Only a plain page on a request known to be secure is refused: an attacker who
    can forge the page must not reach the secure site. ``ws`` is the same as ``http``, and ``wss``
    the same as ``https``.

    Args:
        origin: the ``Origin`` header.
        host: ``request.get_host()``, with the port if the client named one.
        secure: ``request.is_secure()``.
    """
    parts, own = _split(origin), _split(f"http://{host}")
    if parts is None or own is None or (secure and parts.scheme != "https"):
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None:
        return False  # an app's shell, such as capacitor://localhost, must be allowed by name
    return parts.hostname == own.hostname and (parts.port or default) == (own.port or default)


def has_port(host: str) -> bool:
    """Return whether a ``Host`` header names the port."""
    parts = _split(f"http://{host}")
    return parts is not None and parts.port is not None


def is_loopback(origin: str) -> bool:
    """Return whether ``origin`` is a page on this machine, on any port."""
    parts = _split(origin)
    if parts is None or parts.scheme not in _DEFAULT_PORTS:
        return False
    host = parts.hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_allowed(origin: str, patterns: Iterable[str]) -> bool:
    """Return whether ``origin`` matches a pattern.

    Args:
        origin: the ``Origin`` header.
        patterns: ``"https://example.com"``, ``"https://*.example.com"`` for its subdomains (not
            itself), one of ``OPAQUE``, or ``"*"`` for every page.
    """
    # A host cannot contain a star; only patterns can.
    parts = None if "*" in origin else _split(origin)
    for pattern in patterns:
        if pattern == "*" or (pattern == origin and origin in OPAQUE):
            return True
        wanted = _split(pattern)
        if parts is None or wanted is None or parts.scheme != wanted.scheme:
            continue
        default = _DEFAULT_PORTS.get(parts.scheme)
        if (parts.port or default) != (wanted.port or default):
            continue
        host, name = parts.hostname or "", wanted.hostname or ""
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def problem(pattern: Any) -> str | None:
    """Return why a pattern of ``is_allowed()`` cannot match any origin, or ``None`` if it can.

    Example:
        >>> problem("https://example.com/")
        'has something after host and port: write "https://example.com"'
    """
    if not isinstance(pattern, str):
        return "is not a string"
    if pattern == "*" or pattern in OPAQUE:
        return None
    scheme, separator, rest = pattern.partition("://")
    if not separator:
        return 'has no scheme such as "https://"'
    host, *more = re.split("[/?#]", rest, maxsplit=1)
    user, _, host = host.rpartition("@")
    if scheme == "file":
        return 'is not as browsers send it: write "file://"'
    if user:
        return f'names a user: write "{scheme}://{host}"'
    if host.endswith(":*"):
        return "has a wildcard for the port: list each port"
    if "*" in host.removeprefix("*."):
        return 'may have a wildcard for subdomains only, as in "https://*.example.com"'
    if host.startswith(".") and host != ".":
        return f'has a dot for subdomains: write "{scheme}://*{host}"'
    if not host.isascii():
        return f'is not as browsers send it: write "{scheme}://{_in_ascii(host)}"'
    if more:
        return f'has something after host and port: write "{scheme}://{host}"'
    return None if _split(pattern) else 'is not of the form "https://host" or "https://host:port"'


def _in_ascii(host: str) -> str:
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return "xn--..."

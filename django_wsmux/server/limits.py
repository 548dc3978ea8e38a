"""Limits on the number of WebSockets of this process: in total, per address, per user.

Each handshake takes a ``Permit`` before the framework is called, and keeps it until it is refused
or its socket's descriptor is closed, so handshakes in progress count, too. There are no permits
without limits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from threading import Lock
from typing import Any, Final

from ..logs import LogLimit, get_logger, quote
from ..protocol.environ import wire_path
from ..protocol.handshake import Refusal
from ..protocol.options import Options
from .refusals import note

__all__ = [
    "FULL_USER",
    "RETRY_AFTER",
    "Permit",
    "acquire",
    "address_of",
    "admit_user",
    "disown",
    "readmit",
]

logger = get_logger("django_wsmux.handshake")

#: Seconds after which a refused client may try again.
RETRY_AFTER: Final = 10

_RETRY = (("Retry-After", str(RETRY_AFTER)),)

_FULL = Refusal(
    "503 Service Unavailable", "This server has reached its limit of WebSockets.", _RETRY
)
_FULL_ADDRESS = Refusal("429 Too Many Requests", "Too many WebSockets from this address.", _RETRY)
#: For a user who has reached the limit.
FULL_USER: Final = Refusal("429 Too Many Requests", "Too many WebSockets of this user.", _RETRY)


class Permit:
    """The permission for one WebSocket, which counts for the limits.

    Attributes:
        address: what it counts for, as an address; ``None`` without that limit.
        user: what it counts for, as a user; ``None`` without that limit, or if no user is known.
        is_open: an open socket holds the permit, and releases it when its descriptor is closed.
        is_refused: the user has reached the limit.
    """

    __slots__ = ("_is_taken", "address", "is_open", "is_refused", "user")

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.user: str | None = None
        self._is_taken = True
        self.is_open = self.is_refused = False

    def release(self) -> None:
        """Give the permit back; a second call does nothing."""
        global _count
        with _lock:
            if not self._is_taken:
                return
            self._is_taken = False
            _count -= 1
            _remove(_addresses, self.address)
            _remove(_users, self.user)


# For servers with threads; greenlets do not switch here.
_lock = Lock()
_count = 0
_addresses: dict[str, int] = {}
_users: dict[str, int] = {}

# A setting that does not match the proxies is logged once a minute.
_misled = LogLimit(1, 60.0)


def disown() -> None:
    """Replace the lock in a forked child: another thread may have held it during the fork."""
    global _lock
    _lock = Lock()


def _add(counts: dict[str, int], key: str | None, limit: int | None) -> bool:
    """Count one more, unless ``limit`` is reached; return whether it was counted."""
    if key is None or limit is None:
        return True
    number = counts.get(key, 0)
    if number >= limit:
        return False
    counts[key] = number + 1
    return True


def _remove(counts: dict[str, int], key: str | None) -> None:
    if key is not None:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def acquire(environ: dict[str, Any], options: Options) -> Permit | Refusal:
    """Take a permit for a handshake.

    Args:
        environ: the environ of the handshake.
        options: the limits.

    Returns:
        The permit, which must be released if no socket opens; or the refusal if a limit is
        reached.
    """
    most, per_address = options.max_sockets, options.max_sockets_per_address
    address = None if per_address is None else address_of(environ, options.trusted_proxies)
    refusal = _take_place(address, most, per_address)
    if refusal is None:
        return Permit(address)
    if refusal is _FULL:
        counter, reason = "refused_sockets", f"WEBSOCKET_MAX_SOCKETS ({most}) is reached"
    else:
        counter = "refused_address"
        reason = f"WEBSOCKET_MAX_SOCKETS_PER_ADDRESS ({per_address}) is reached by {address}"
    note(counter, refusal.status, wire_path(environ), reason)
    return refusal


def _take_place(address: str | None, most: int | None, per_address: int | None) -> Refusal | None:
    global _count
    with _lock:
        if most is not None and _count >= most:
            return _FULL
        if not _add(_addresses, address, per_address):
            return _FULL_ADDRESS
        _count += 1
    return None


def readmit(address: str | None, user: str | None) -> Permit:
    """Return a permit for a socket that comes from another process, whatever the limits are.

    Args:
        address: the ``address`` of its permit there.
        user: the ``user`` of its permit there.
    """
    global _count
    permit = Permit(address)
    permit.user = user
    with _lock:
        _count += 1
        _add(_addresses, address, sys.maxsize)
        _add(_users, user, sys.maxsize)
    return permit


def admit_user(permit: Permit, user: str, limit: int, path: str) -> bool:
    """Count a handshake for its user; return whether the limit allows it.

    Args:
        permit: the permit of the handshake.
        user: the primary key.
        limit: how many sockets a user may have.
        path: the quoted path, for the log.
    """
    with _lock:
        if permit.user is not None:
            return True  # asked again
        if _add(_users, user, limit):
            permit.user = user
            return True
    permit.is_refused = True
    reason = f"WEBSOCKET_MAX_SOCKETS_PER_USER ({limit}) is reached by user {quote(user)}"
    note("refused_user", FULL_USER.status, path, reason)
    return False


def address_of(environ: Mapping[str, Any], proxies: int) -> str | None:
    """Return the address that a WebSocket is counted for: IPv4, or the /64 network of IPv6.

    Args:
        environ: the environ of the handshake.
        proxies: how many reverse proxies append the address of their client to
            ``X-Forwarded-For``. Entries further left come from the client and are not trusted.

    Returns:
        ``None`` if the request came over a unix socket and no proxy names the client.

    Example:
        >>> address_of({"REMOTE_ADDR": "2001:db8:1:2:3::4"}, 0)
        '2001:db8:1:2::/64'
    """
    if proxies:
        forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").rsplit(",", proxies)
        if len(forwarded) >= proxies and (client := _network(forwarded[-proxies])):
            return client
    address = _network(environ.get("REMOTE_ADDR") or "")
    suffix = _misled.suffix() if proxies or address is None else None
    if suffix is not None:
        logger.warning(
            "X-Forwarded-For is %s and WEBSOCKET_TRUSTED_PROXIES is %d: %s%s",
            quote(environ.get("HTTP_X_FORWARDED_FOR", "")),
            proxies,
            "WebSockets are counted for the address of the nearest proxy"
            if address
            else "the address of the client is unknown, so it is not limited",
            suffix,
        )
    return address


def _network(text: str) -> str | None:
    """Return an address or its network, in one spelling and without a port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            # A client with one IPv6 address has the whole /64 (RFC 6177).
            return f"{IPv6Address(int(address) >> 64 << 64)}/64"
        address = address.ipv4_mapped
    return str(address)

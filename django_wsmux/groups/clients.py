"""Clients and their ids, which are signed so that no client can impersonate another."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare, salted_hmac

from ..connection import client_ids, hub_thread

__all__ = [
    "ANONYMOUS",
    "REPLACED",
    "close_if_older",
    "close_older",
    "digests",
    "group_of",
    "identity_of",
    "install",
    "is_client",
    "is_identity",
    "sign",
    "verified",
]

#: Close code of a socket whose client has opened another one with the same id.
REPLACED: Final = 4900

#: The identity of every anonymous user.
ANONYMOUS: Final = "anonymous"

#: Prefix of the name in a request to close the socket of a client.
_CLIENT: Final = "@client:"

#: An id, perhaps with a page, and its signature.
_SIGNED: Final = re.compile(r"([\w-]{1,64})(\.[\w-]{1,32})?~([\w-]{22})", re.ASCII)


def digests(purpose: str, value: str) -> Iterator[str]:
    """Yield the hash of a value with ``SECRET_KEY``, then with each of its fallbacks.

    Args:
        purpose: hashes for different purposes differ.
        value: the value.
    """
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        digest = salted_hmac(purpose, value, secret=key, algorithm="sha256").digest()
        yield urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def sign(client_id: str) -> str:
    """Return an id with its signature: ``"<id>~<signature>"``."""
    return f"{client_id}~{next(digests('django_wsmux.client', client_id))}"


def verified(signed: str) -> str | None:
    """Verify a signed id and return the id; return ``None`` if the signature is wrong.

    Args:
        signed: ``"<id>~<signature>"`` or ``"<id>.<page>~<signature>"``. The signature is that of
            the id without the page.
    """
    match = _SIGNED.fullmatch(signed)
    if match is None:
        return None
    client_id, page, signature = match.groups()
    found = digests("django_wsmux.client", client_id)
    if not any(constant_time_compare(signature, digest) for digest in found):
        return None
    return f"{client_id}{page or ''}"


def identity_of(user: Any) -> str:
    """Return a text that identifies a user without revealing the primary key.

    Args:
        user: a user, who may be anonymous.
    """
    if not getattr(user, "is_authenticated", False) or user.pk is None:
        return ANONYMOUS
    return next(digests("django_wsmux.identity", str(user.pk)))


def is_identity(identity: str, user_id: str | None) -> bool:
    """Return whether ``identity_of()`` returned this text for a user.

    Args:
        identity: the text.
        user_id: primary key of the user, ``None`` for an anonymous one.
    """
    if user_id is None:
        return identity == ANONYMOUS
    found = digests("django_wsmux.identity", user_id)
    # A non-ASCII text cannot be compared.
    return identity.isascii() and any(constant_time_compare(identity, digest) for digest in found)


# A client that opens another socket


def group_of(client_id: str) -> str:
    """Return the name under which processes ask each other to close a client's socket."""
    return f"{_CLIENT}{client_id}"


def close_older(client_id: str, moment: float) -> None:
    """Close the socket of a client that was opened before a moment, and free its place.

    The place is freed first: the connection may be dead, and then closing it takes up to
    ``WEBSOCKET_CLOSE_TIMEOUT``.

    Args:
        client_id: the id, or the name that ``group_of()`` returned for it.
        moment: the moment, in the clock of ``time.time()``.
    """
    if hub_thread.is_foreign():
        hub_thread.hand_over(close_older, client_id, moment)
        return
    websocket = client_ids.find(client_id.removeprefix(_CLIENT))
    if websocket is None or websocket.connecting:
        return
    close_if_older(websocket, moment)


def is_client(websocket: Any, name: str) -> bool:
    """Return whether a socket is that of the client for which ``group_of()`` returned a name."""
    client_id = websocket.known_client_id
    return client_id is not None and group_of(client_id) == name


def close_if_older(websocket: Any, moment: float) -> None:
    """Close a socket if it was opened before a moment; see ``close_older()``."""
    if time.time() - websocket.hooks.age < moment:
        if websocket.permit is not None:
            websocket.permit.release()
        websocket.close_from_group(REPLACED, "replaced")


# Plain requests


def install() -> None:
    """Add ``websocket_client`` to Django's requests."""
    HttpRequest.websocket_client = property(_client_of)  # type: ignore[attr-defined]


def _client_of(request: HttpRequest) -> str | None:
    """Return the id of the client that sent a request, from ``X-WebSocket-Client``.

    ``None`` if there is no such header or its signature is wrong.
    """
    signed = request.META.get("HTTP_X_WEBSOCKET_CLIENT")
    return None if signed is None else verified(signed)

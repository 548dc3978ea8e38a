"""Credentials of a handshake other than cookies.

A token is in the ``Authorization`` header; ``protocol.handshake.take_token`` also moves a token
there that was offered as a subprotocol.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final

from django.conf import settings
from django.contrib import auth
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

__all__ = [
    "AuthenticationFailed",
    "Identity",
    "anonymous",
    "bearer_token",
    "expiry_of",
    "forget",
    "identify",
    "session_store",
    "session_user",
    "user_by_id",
]


#: The year 9999. Times behind it are errors, or mean never.
_NEVER: Final = 253_402_300_800


class AuthenticationFailed(PermissionDenied):
    """A ticket or token is wrong.

    Args:
        reason: for the log, as the end of a sentence; never the token itself.
        challenge: value of ``WWW-Authenticate`` for a 401; without it the answer is 403.
    """

    def __init__(self, reason: str, challenge: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.challenge = challenge


@dataclass(frozen=True, slots=True)
class Identity:
    """The user of a ticket or token.

    Attributes:
        user: the user.
        session_key: key of the session that a ticket stands for.
        expires_at: when a token expires, as of ``time.time()``; ``None`` for never. It belongs to
            the socket from the handshake on.
    """

    user: Any
    session_key: str | None = field(default=None, repr=False)  # as good as a password
    expires_at: float | None = None

    def reload(self) -> Any:
        """Return the user as now stored; ``AnonymousUser`` if the user is gone or not active."""
        if self.session_key is not None:
            return session_user(self.session_key)
        if not isinstance(self.user, auth.get_user_model()):
            return self.user  # an object of the authenticator's own, which is not stored
        return user_by_id(self.user.pk) or anonymous()


def identify(request: Any, identity: Identity) -> None:
    """Set the request's user, as Django's middleware would, and when its socket expires."""
    request.identity = identity
    request.user = request._cached_user = identity.user
    websocket = getattr(request, "websocket", None)
    if websocket is not None and identity.expires_at is not None:
        websocket.expires_at = identity.expires_at


def expiry_of(claims: Any) -> float | None:
    """Return the time ``exp`` of the claims of a JSON Web Token; ``None`` without one.

    Args:
        claims: the token, as a text or as an authenticator has parsed it. Its signature is not
            checked: the authenticator has accepted it. Anything else has no ``exp``.
    """
    if isinstance(claims, str):
        try:
            # RFC 7519 section 3, RFC 7515 section 7.1
            _, encoded, _ = claims.split(".")
            claims = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except (ValueError, RecursionError):
            return None
    get = getattr(claims, "get", None)
    when = get("exp") if callable(get) else None
    # RFC 7519 section 2: a NumericDate is a number of seconds since 1970.
    if isinstance(when, bool) or not isinstance(when, (int, float)) or not 0 <= when < _NEVER:
        return None
    return float(when)


def anonymous() -> Any:
    """Return an ``AnonymousUser``."""
    from django.contrib.auth.models import AnonymousUser  # its app may not be installed

    return AnonymousUser()


def session_store() -> Any:
    """Return the class that keeps the sessions of the project."""
    return import_module(settings.SESSION_ENGINE).SessionStore


def session_user(session_key: str) -> Any:
    """Return the current user of a session, as for a request with its cookie."""
    request: Any = SimpleNamespace(session=session_store()(session_key))
    return auth.get_user(request)


def user_by_id(user_id: Any) -> Any | None:
    """Return a user whom one of ``AUTHENTICATION_BACKENDS`` accepts: one who is active, say."""
    users = (backend.get_user(user_id) for backend in auth.get_backends())
    return next((user for user in users if user is not None), None)


def bearer_token(request: HttpRequest) -> str | None:
    """Return the token of ``Authorization: Bearer`` or of the subprotocols, if any."""
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def forget(request: HttpRequest) -> None:
    """Remove the token from an authenticated request, which may live for hours."""
    if request.META.pop("HTTP_AUTHORIZATION", None) is not None:
        request.__dict__.pop("headers", None)  # cached copy of META

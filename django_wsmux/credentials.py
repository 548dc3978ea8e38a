"""What a handshake brings along to say whose it is, other than cookies.

A token comes in the ``Authorization`` header, which is also where one that was offered as a
subprotocol is put (``protocol.handshake.take_token``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

__all__ = [
    "AuthenticationFailed",
    "Identity",
    "anonymous",
    "bearer_token",
    "forget",
    "session_user",
    "user_by_id",
]


class AuthenticationFailed(PermissionDenied):
    """A ticket or token is not right.

    Args:
        reason: for the log, as the end of a sentence; never the token itself.
        challenge: what ``WWW-Authenticate`` is to say, for an answer of 401; without it is 403.
    """

    def __init__(self, reason: str, challenge: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.challenge = challenge


@dataclass(frozen=True, slots=True)
class Identity:
    """Who has come with a ticket or token.

    Attributes:
        user: the user.
        session_key: of the session that a ticket stands for.
    """

    user: Any
    session_key: str | None = field(default=None, repr=False)  # as good as a password

    def read_anew(self) -> Any:
        """Return the user as the database has it now; ``AnonymousUser`` who is no longer one."""
        if self.session_key is not None:
            return session_user(self.session_key)
        if not isinstance(self.user, auth.get_user_model()):
            return self.user  # a token's own idea of a user, which is not stored
        return user_by_id(self.user.pk) or anonymous()


def anonymous() -> Any:
    """Return Django's idea of nobody."""
    from django.contrib.auth.models import AnonymousUser  # not every project has its app

    return AnonymousUser()


def session_user(session_key: str) -> Any:
    """Return whose session this is now, as for a request with its cookie."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    request: Any = SimpleNamespace(session=store(session_key))
    return auth.get_user(request)


def user_by_id(user_id: Any) -> Any | None:
    """Return a user whom one of ``AUTHENTICATION_BACKENDS`` lets in, as one who is active."""
    users = (backend.get_user(user_id) for backend in auth.get_backends())
    return next((user for user in users if user is not None), None)


def bearer_token(request: HttpRequest) -> str | None:
    """Return the token of ``Authorization: Bearer`` or of the list of subprotocols, if any."""
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def forget(request: HttpRequest) -> None:
    """Take the token out of a request that was authenticated: it may live for hours."""
    if request.META.pop("HTTP_AUTHORIZATION", None) is not None:
        request.__dict__.pop("headers", None)  # made of it
